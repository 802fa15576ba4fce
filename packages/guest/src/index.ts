export { type GuestSample } from "./sample.ts";
export { type ClockReading, GuestLink, type GuestLinkOptions } from "./guest-link.ts";
export { processClient } from "./rpc.ts";
