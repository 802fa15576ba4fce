export { type GuestSample } from "./sample.ts";
export { GuestLink, type GuestLinkOptions } from "./guest-link.ts";
export { guestTransport, processClient } from "./rpc.ts";
