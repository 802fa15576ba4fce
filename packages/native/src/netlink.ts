/**
 * Netlink sockets: questions to the kernel's network, and its answers, which are there when the
 * call that asks returns (netlink(7)). The files that use them interpret the messages.
 */
import { closeSync } from "node:fs";
import { check, libc } from "./libc.ts";

const AF_NETLINK = 16;
const SOCK_RAW_CLOEXEC = 0x8_0003;

/** Offsets in struct nlmsghdr: length, type, flags, sequence number, port. */
export const netlinkHeader = {
  bytes: 16,
  lengthAt: 0,
  typeAt: 4,
  flagsAt: 6,
  sequenceAt: 8,
} as const;

/** An open socket; disposing closes it. */
export interface NetlinkSocket extends Disposable {
  readonly fd: number;
}

const socket = libc.func("int socket(int domain, int type, int protocol)") as (
  domain: number,
  type: number,
  protocol: number,
) => number;
const bind = libc.func("int bind(int fd, const void *address, unsigned int length)") as (
  fd: number,
  address: Buffer,
  length: number,
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

/**
 * Opens a socket in the current network namespace.
 * @param protocol NETLINK_… of linux/netlink.h
 * @throws a system error
 */
export function openNetlink(protocol: number): NetlinkSocket {
  const fd = check(socket(AF_NETLINK, SOCK_RAW_CLOEXEC, protocol), "socket");
  return { fd, [Symbol.dispose]: () => closeSync(fd) };
}

/**
 * Makes the kernel announce these changes on the socket from now on.
 * @param groups RTMGRP_… of linux/rtnetlink.h
 * @throws a system error
 */
export function joinNetlinkGroups(fd: number, groups: number): void {
  // struct sockaddr_nl: family, two spare bytes, port, groups.
  const name = Buffer.alloc(12);
  name.writeUInt16LE(AF_NETLINK, 0);
  name.writeUInt32LE(groups, 8);
  check(bind(fd, name, name.length), "bind");
}

/** Sends one or more messages to the kernel. @throws a system error */
export function sendNetlink(fd: number, bytes: Uint8Array): void {
  check(send(fd, bytes, bytes.length, 0), "send");
}

/** Receives one datagram from the kernel. @returns its length, or -1 with `lastErrno` */
export function receiveNetlink(fd: number, into: Uint8Array, flags = 0): number {
  return receive(fd, into, into.length, flags);
}
