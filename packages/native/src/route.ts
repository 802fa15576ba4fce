/**
 * Makes every address that has no route of its own one of this machine's, in the current network
 * namespace: a packet to it is then received, and answered, instead of dropped (rtnetlink(7)).
 */
import { closeSync } from "node:fs";
import { check, libc, systemError } from "./libc.ts";

const AF_NETLINK = 16;
const AF_INET = 2;
const SOCK_RAW_CLOEXEC = 0x8_0003;
const NETLINK_ROUTE = 0;
const RTM_NEWROUTE = 24;
const NLM_F_REQUEST_ACK_CREATE = 0x405;
const RT_TABLE_MAIN = 254;
const RTPROT_STATIC = 4;
const RT_SCOPE_HOST = 254;
const RTN_LOCAL = 2;
const RTA_OIF = 4;
/** In every namespace: it is made with it. */
const loopbackIndex = 1;
const messageBytes = 36;
const errorAt = 16;

const socket = libc.func("int socket(int domain, int type, int protocol)") as (
  domain: number,
  type: number,
  protocol: number,
) => number;
const send = libc.func("long send(int fd, const void *bytes, size_t length, int flags)") as (
  fd: number,
  bytes: Uint8Array,
  length: number,
  flags: number,
) => number;
const receive = libc.func("long recv(int fd, void *bytes, size_t length, int flags)") as (
  fd: number,
  bytes: Uint8Array,
  length: number,
  flags: number,
) => number;

/** The loopback must be up. @throws system error EPERM without CAP_NET_ADMIN */
export function routeEverythingHere(): void {
  const fd = check(socket(AF_NETLINK, SOCK_RAW_CLOEXEC, NETLINK_ROUTE), "socket");
  try {
    const request = newRouteRequest();
    check(send(fd, request, request.length, 0), "send");
    // The kernel answers within the call that asks.
    const answer = Buffer.alloc(errorAt + 4 + request.length);
    check(receive(fd, answer, answer.length, 0), "recv");
    const errno = -answer.readInt32LE(errorAt);
    if (errno !== 0) throw systemError(errno, "RTM_NEWROUTE");
  } finally {
    closeSync(fd);
  }
}

/** struct nlmsghdr, struct rtmsg, and one attribute: the device. */
function newRouteRequest(): Buffer {
  const bytes = Buffer.alloc(messageBytes);
  bytes.writeUInt32LE(messageBytes, 0);
  bytes.writeUInt16LE(RTM_NEWROUTE, 4);
  bytes.writeUInt16LE(NLM_F_REQUEST_ACK_CREATE, 6);
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
