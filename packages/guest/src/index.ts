export { type GuestSample } from "./sample.ts";
export { GuestLink, type GuestLinkOptions } from "./guest-link.ts";
export { processClient } from "./rpc.ts";
