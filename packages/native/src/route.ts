/**
 * Makes every address that has no route of its own a local address, in the current network
 * namespace: a packet to it is then received, and answered, instead of dropped (rtnetlink(7)).
 */
import { check, systemError } from "./libc.ts";
import { netlinkHeader, openNetlink, receiveNetlink, sendNetlink } from "./netlink.ts";

const AF_INET = 2;
const NETLINK_ROUTE = 0;
const RTM_NEWROUTE = 24;
const NLM_F_REQUEST_ACK_CREATE = 0x405;
const RT_TABLE_MAIN = 254;
const RTPROT_STATIC = 4;
const RT_SCOPE_HOST = 254;
const RTN_LOCAL = 2;
const RTA_OIF = 4;
/** The same in every namespace, because the loopback is made with it. */
const loopbackIndex = 1;
const messageBytes = 36;
const errorAt = netlinkHeader.bytes;

/** Adds the route. The loopback must be up. @throws system error EPERM without CAP_NET_ADMIN */
export function routeEverythingHere(): void {
  using route = openNetlink(NETLINK_ROUTE);
  const request = newRouteRequest();
  sendNetlink(route.fd, request);
  const answer = Buffer.alloc(errorAt + 4 + request.length);
  check(receiveNetlink(route.fd, answer), "recv");
  const errno = -answer.readInt32LE(errorAt);
  if (errno !== 0) throw systemError(errno, "RTM_NEWROUTE");
}

/** struct nlmsghdr, struct rtmsg, and one attribute: the device. */
function newRouteRequest(): Buffer {
  const bytes = Buffer.alloc(messageBytes);
  bytes.writeUInt32LE(messageBytes, netlinkHeader.lengthAt);
  bytes.writeUInt16LE(RTM_NEWROUTE, netlinkHeader.typeAt);
  bytes.writeUInt16LE(NLM_F_REQUEST_ACK_CREATE, netlinkHeader.flagsAt);
  bytes.writeUInt8(AF_INET, 16);
  bytes.writeUInt8(RT_TABLE_MAIN, 20);
  bytes.writeUInt8(RTPROT_STATIC, 21);
  bytes.writeUInt8(RT_SCOPE_HOST, 22);
  bytes.writeUInt8(RTN_LOCAL, 23);
  bytes.writeUInt16LE(8, 28);
  bytes.writeUInt16LE(RTA_OIF, 30);
  bytes.writeUInt32LE(loopbackIndex, 32);
  return bytes;
}
