export {
  bringUp,
  openTap,
  openTcpSocket,
  pinNeighbour,
  setHardwareAddress,
} from "./network-device.ts";
export { NetworkNamespace } from "./network-namespace.ts";
export { type AddressRange, ownPages, pageBytes } from "./pagemap.ts";
export { readAhead } from "./read-ahead.ts";
export { measureTscKhz } from "./timestamp-counter.ts";
