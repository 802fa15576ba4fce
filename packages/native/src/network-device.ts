/**
 * TAP devices, sockets and interface settings in the current network namespace, by the ioctls of
 * netdevice(7), arp(7) and Linux's tuntap documentation.
 *
 * All calls act in the namespace of the calling thread (see network-namespace.ts).
 */
import { closeSync, openSync } from "node:fs";
import { check, libc } from "./libc.ts";

const TUNSETIFF = 0x4004_54ca;
const TUNSETPERSIST = 0x4004_54cb;
const IFF_TAP = 0x0002;
const IFF_NO_PI = 0x1000;
const SIOCSIFFLAGS = 0x8914;
const SIOCSIFADDR = 0x8916;
const SIOCSIFNETMASK = 0x891c;
const SIOCSIFHWADDR = 0x8924;
const SIOCSARP = 0x8955;
const IFF_UP_RUNNING = 0x0041;
const AF_INET = 2;
const ARPHRD_ETHER = 1;
const ATF_COMPLETE_PERMANENT = 0x06;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOCK_NONBLOCK_CLOEXEC = 0x8_0800;

const ioctl = libc.func("int ioctl(int fd, unsigned long request, _Inout_ uint8_t *arg)") as (
  fd: number,
  request: number,
  arg: Buffer,
) => number;
const ioctlNumber = libc.func("int ioctl(int fd, unsigned long request, long value)") as (
  fd: number,
  request: number,
  value: number,
) => number;
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

/**
 * Creates a TAP device, which lives until the returned descriptor and its copies are closed.
 * @throws a system error
 */
export function openTap(name: string): number {
  const fd = openSync("/dev/net/tun", "r+");
  try {
    // No vnet header: a snapshot taken with one cannot be loaded with any other network backend.
    const request = interfaceRequest(name);
    request.writeUInt16LE(IFF_TAP | IFF_NO_PI, 16);
    check(ioctl(fd, TUNSETIFF, request), "TUNSETIFF");
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/**
 * From now on the device lives as long as its namespace. Once the descriptor is closed it can be
 * opened by its name: it has one user at a time.
 * @throws a system error
 */
export function keepTap(tapFd: number): void {
  check(ioctlNumber(tapFd, TUNSETPERSIST, 1), "TUNSETPERSIST");
}

/**
 * Sets an interface's hardware address ("02:54:…"). The interface must be down.
 * @throws a system error
 */
export function setHardwareAddress(name: string, mac: string): void {
  const request = interfaceRequest(name);
  writeHardwareAddress(request, 16, mac);
  configure(SIOCSIFHWADDR, request, "SIOCSIFHWADDR");
}

/** Gives an interface an IPv4 address and brings it up. @throws a system error */
export function bringUp(name: string, address: string, prefixBits: number): void {
  const withAddress = interfaceRequest(name);
  writeSocketAddress(withAddress, 16, address);
  configure(SIOCSIFADDR, withAddress, "SIOCSIFADDR");
  const withMask = interfaceRequest(name);
  writeSocketAddress(withMask, 16, "0.0.0.0");
  withMask.writeUInt32BE((0xffff_ffff << (32 - prefixBits)) >>> 0, 20);
  configure(SIOCSIFNETMASK, withMask, "SIOCSIFNETMASK");
  const withFlags = interfaceRequest(name);
  withFlags.writeUInt16LE(IFF_UP_RUNNING, 16);
  configure(SIOCSIFFLAGS, withFlags, "SIOCSIFFLAGS");
}

/**
 * Pins the hardware address of a neighbour, so that no address resolution is ever needed.
 * @throws a system error
 */
export function pinNeighbour(name: string, address: string, mac: string): void {
  const request = Buffer.alloc(68);
  writeSocketAddress(request, 0, address);
  writeHardwareAddress(request, 16, mac);
  request.writeInt32LE(ATF_COMPLETE_PERMANENT, 32);
  request.write(name, 52, 15, "latin1");
  configure(SIOCSARP, request, "SIOCSARP");
}

/**
 * Opens a TCP socket that belongs to the current namespace, wherever it is used later.
 * @throws a system error
 */
export function openTcpSocket(): number {
  return check(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK_CLOEXEC, 0), "socket");
}

/**
 * Opens such a socket, bound to an address; port 0 lets the kernel choose.
 * @throws a system error
 */
export function openBoundSocket(kind: "tcp" | "udp", address: string, port: number): number {
  const type = kind === "tcp" ? SOCK_STREAM : SOCK_DGRAM;
  const fd = check(socket(AF_INET, type | SOCK_NONBLOCK_CLOEXEC, 0), "socket");
  try {
    const name = Buffer.alloc(16);
    writeSocketAddress(name, 0, address, port);
    check(bind(fd, name, name.length), "bind");
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

function configure(request: number, argument: Buffer, name: string): void {
  const fd = check(socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK_CLOEXEC, 0), "socket");
  try {
    check(ioctl(fd, request, argument), name);
  } finally {
    closeSync(fd);
  }
}

/** `struct ifreq`: 16 bytes of name, then 24 bytes that depend on the request. */
function interfaceRequest(name: string): Buffer {
  const request = Buffer.alloc(40);
  request.write(name, 0, 15, "latin1");
  return request;
}

/** `struct sockaddr_in`. */
function writeSocketAddress(target: Buffer, offset: number, address: string, port = 0): void {
  target.writeUInt16LE(AF_INET, offset);
  target.writeUInt16BE(port, offset + 2);
  Buffer.from(address.split(".").map(Number)).copy(target, offset + 4);
}

/** `struct sockaddr` of an Ethernet address. */
function writeHardwareAddress(target: Buffer, offset: number, mac: string): void {
  target.writeUInt16LE(ARPHRD_ETHER, offset);
  Buffer.from(mac.split(":").map((part) => Number.parseInt(part, 16))).copy(target, offset + 2);
}
