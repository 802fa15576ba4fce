/**
 * Ends TCP connections of other programs, by the kernel's own list of them (sock_diag(7)).
 *
 * Whoever uses such a connection is told ECONNABORTED at once, instead of waiting minutes for a far
 * end that does not know the connection any more; the far end is sent a reset.
 *
 * A pass lists the connections of the current network namespace and then destroys them. While they
 * go, the list moves, so that some are passed over; another pass follows until one finds nobody left.
 *
 * Spared are listening sockets, connections whose two ends are both in this machine, one connection
 * that the caller names, and what is left of connections that both ends have closed (TIME_WAIT):
 * nobody uses those, and older kernels cannot end them.
 *
 * The kernel answers within the call that asks, so nothing here waits; the deadline bounds the work.
 */
import { closeSync } from "node:fs";
import { constants } from "node:os";
import { type Deadline, TorporError } from "@torpor/std";
import { check, lastErrno, libc, systemError } from "./libc.ts";

const AF_INET = 2;
const AF_INET6 = 10;
const AF_NETLINK = 16;
const SOCK_RAW_CLOEXEC = 0x8_0003;
const NETLINK_SOCK_DIAG = 4;
const IPPROTO_TCP = 6;
const MSG_DONTWAIT = 0x40;
const SOCK_DIAG_BY_FAMILY = 20;
const SOCK_DESTROY = 21;
const NLM_F_REQUEST = 0x1;
const NLM_F_DUMP = 0x300;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;

/** From linux/tcp_states.h. */
const tcpState = { finWait1: 4, finWait2: 5, timeWait: 6, close: 7, lastAck: 9, listen: 10 };
const tcpClosing = 11;
const tcpStateMax = 12;
const wantedStates = statesBut(tcpState.timeWait, tcpState.close, tcpState.listen);
/** A connection without a program in one of these was closed by it, and only says so to its peer. */
const partingStates: readonly number[] = [
  tcpState.finWait1,
  tcpState.finWait2,
  tcpState.lastAck,
  tcpClosing,
];

/** struct nlmsghdr: length, type, flags, sequence number, port. */
const headerBytes = 16;
/** struct inet_diag_req_v2: family, protocol, two spare bytes, states, struct inet_diag_sockid. */
const requestBytes = 56;
/** struct inet_diag_msg: family, state, two timers, struct inet_diag_sockid, five numbers. */
const entryBytes = 72;
const socketIdBytes = 48;
const entryIdAt = 4;
const entryInodeAt = 68;
const requestIdAt = 8;
const destroyBytes = headerBytes + requestBytes;

/** The kernel fills at most this much at once. */
const receiveBytes = 64 << 10;
/** LIMIT: requests held in memory at a time; 1.2 MB of a program that shares its guest's memory. */
const passSocketsMax = 16_384;
/** LIMIT: with the above, more connections than a guest's memory holds. */
const passesMax = 64;
/** Requests in one send; the answers of all must fit into the socket's receive buffer. */
const batchSockets = 64;

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
const inetPton = libc.func("int inet_pton(int family, const char *text, void *bytes)") as (
  family: number,
  text: string,
  bytes: Uint8Array,
) => number;

/** A connection as this machine sees it: both ends by address and port. */
export interface TcpConnectionName {
  readonly localAddress: string;
  readonly localPort: number;
  readonly remoteAddress: string;
  readonly remotePort: number;
}

/**
 * Destroys every TCP connection of the current network namespace but the spared ones (see above).
 * Safe to repeat.
 * @returns How many connections in use were destroyed.
 * @throws deadline.exceeded with some left; system error ENOENT where the kernel keeps no such list,
 *   EPERM without CAP_NET_ADMIN, EOPNOTSUPP where it cannot destroy them.
 */
export function destroyTcpConnections(
  spared: TcpConnectionName | undefined,
  deadline: Deadline,
): number {
  const sparedId = spared === undefined ? undefined : nameBytes(spared);
  let destroyed = 0;
  for (let pass = 0; pass < passesMax; pass += 1) {
    const victims = listVictims(sparedId, deadline);
    if (victims.requests.length === 0) return destroyed;
    const refusals = destroyAll(victims.requests, deadline);
    // Those that are parting may take their time, and older kernels leave them alone.
    if (victims.inUse === 0 && !victims.isCut) return destroyed;
    const [errno] = refusals;
    if (errno !== undefined && refusals.length === victims.inUse) {
      throw systemError(errno, "sock_diag destroy");
    }
    destroyed += victims.inUse - refusals.length;
  }
  throw new TorporError(
    "deadline.exceeded",
    "the guest has more connections than can be destroyed",
  );
}

interface Victims {
  /** One for each connection. */
  readonly requests: Buffer[];
  /** Of these: in use by a program, or waiting for one to accept it. */
  inUse: number;
  /** Whether there were more than a pass takes. */
  isCut: boolean;
}

function listVictims(sparedId: Buffer | undefined, deadline: Deadline): Victims {
  const victims: Victims = { requests: [], inUse: 0, isCut: false };
  for (const family of [AF_INET, AF_INET6]) {
    using list = openDiag();
    const request = message(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family);
    request.writeUInt32LE(wantedStates, headerBytes + 4);
    sendAll(list.fd, request);
    readEntries(list.fd, deadline, (entry) => {
      if (victims.requests.length >= passSocketsMax) victims.isCut = true;
      else if (!isLocal(entry) && !isNamed(entry, sparedId)) addVictim(victims, entry);
      return !victims.isCut;
    });
  }
  return victims;
}

/** Comes back in the answer, and tells whose refusal matters. */
const sequenceOfInUse = 1;
const sequenceAt = 8;

function addVictim(victims: Victims, entry: Buffer): void {
  const request = message(SOCK_DESTROY, 0, entry.readUInt8(0));
  entry.copy(request, headerBytes + requestIdAt, entryIdAt, entryIdAt + socketIdBytes);
  victims.requests.push(request);
  const hasProgram = entry.readUInt32LE(entryInodeAt) !== 0;
  if (!hasProgram && partingStates.includes(entry.readUInt8(1))) return;
  request.writeUInt32LE(sequenceOfInUse, sequenceAt);
  victims.inUse += 1;
}

/** Calls `take` for each entry of the list that was asked for, until it returns false. */
function readEntries(fd: number, deadline: Deadline, take: (entry: Buffer) => boolean): void {
  for (;;) {
    deadline.check();
    for (const { type, body } of receiveMessages(fd)) {
      if (type === NLMSG_DONE) return;
      if (type === NLMSG_ERROR) throw systemError(-body.readInt32LE(0), "sock_diag list");
      if (body.length >= entryBytes && !take(body)) return;
    }
  }
}

/** @returns Why the kernel refused to destroy those in use that it did not. */
function destroyAll(requests: readonly Buffer[], deadline: Deadline): readonly number[] {
  using diag = openDiag();
  const refusals: number[] = [];
  for (let at = 0; at < requests.length; at += batchSockets) {
    deadline.check();
    sendAll(diag.fd, Buffer.concat(requests.slice(at, at + batchSockets)));
    readRefusals(diag.fd, refusals);
  }
  return refusals;
}

/** Unless asked for more, the kernel answers refusals only. */
function readRefusals(fd: number, refusals: number[]): void {
  for (;;) {
    const messages = receiveMessages(fd);
    if (messages.length === 0) return;
    for (const { type, body } of messages) {
      if (type !== NLMSG_ERROR) continue;
      const errno = -body.readInt32LE(0);
      // The header of the request follows the number.
      if (body.readUInt32LE(4 + sequenceAt) !== sequenceOfInUse) continue;
      const isGone = errno === constants.errno.ENOENT || errno === constants.errno.ESTALE;
      if (!isGone) refusals.push(errno);
    }
  }
}

interface Message {
  readonly type: number;
  readonly body: Buffer;
}

/** One datagram of the kernel's, taken apart; none when there is none. */
function receiveMessages(fd: number): readonly Message[] {
  const bytes = Buffer.allocUnsafe(receiveBytes);
  const length = receive(fd, bytes, bytes.length, MSG_DONTWAIT);
  if (length === -1 && lastErrno() === constants.errno.EAGAIN) return [];
  check(length, "recv");
  const messages: Message[] = [];
  for (let at = 0; at + headerBytes <= length;) {
    const messageBytes = bytes.readUInt32LE(at);
    if (messageBytes < headerBytes || at + messageBytes > length) break;
    messages.push({
      type: bytes.readUInt16LE(at + 4),
      body: bytes.subarray(at + headerBytes, at + messageBytes),
    });
    at += Math.ceil(messageBytes / 4) * 4;
  }
  return messages;
}

function openDiag(): Disposable & { readonly fd: number } {
  const fd = check(socket(AF_NETLINK, SOCK_RAW_CLOEXEC, NETLINK_SOCK_DIAG), "socket");
  return { fd, [Symbol.dispose]: () => closeSync(fd) };
}

/** A request about TCP with nothing but its family filled in. */
function message(type: number, flags: number, family: number): Buffer {
  const bytes = Buffer.alloc(destroyBytes);
  bytes.writeUInt32LE(destroyBytes, 0);
  bytes.writeUInt16LE(type, 4);
  bytes.writeUInt16LE(NLM_F_REQUEST | flags, 6);
  bytes.writeUInt8(family, headerBytes);
  bytes.writeUInt8(IPPROTO_TCP, headerBytes + 1);
  return bytes;
}

function sendAll(fd: number, bytes: Buffer): void {
  check(send(fd, bytes, bytes.length, 0), "send");
}

/** Both ends are in this machine, so both were saved and both go on. */
function isLocal(entry: Buffer): boolean {
  const source = addressBytes(entry, 8);
  const target = addressBytes(entry, 24);
  return isLoopback(source) || isLoopback(target) || source.equals(target);
}

function isLoopback(address: Buffer): boolean {
  return address.subarray(0, 13).equals(loopbackV4Prefix) || address.equals(loopbackV6);
}

const mappedPrefix = Buffer.from("00000000000000000000ffff", "hex");
const loopbackV4Prefix = Buffer.concat([mappedPrefix, Buffer.from([127])]);
const loopbackV6 = Buffer.from("00000000000000000000000000000001", "hex");

/** 16 bytes, those of IPv4 as IPv6 maps them. */
function addressBytes(entry: Buffer, at: number): Buffer {
  if (entry.readUInt8(0) === AF_INET6) return entry.subarray(at, at + 16);
  return Buffer.concat([mappedPrefix, entry.subarray(at, at + 4)]);
}

function isNamed(entry: Buffer, name: Buffer | undefined): boolean {
  if (name === undefined || entry.compare(name, 0, 4, entryIdAt, entryIdAt + 4) !== 0) return false;
  const addresses = Buffer.concat([addressBytes(entry, 8), addressBytes(entry, 24)]);
  return addresses.equals(name.subarray(4));
}

/** Ports as the kernel lists them, then both addresses. */
function nameBytes(name: TcpConnectionName): Buffer {
  const ports = Buffer.alloc(4);
  ports.writeUInt16BE(name.localPort, 0);
  ports.writeUInt16BE(name.remotePort, 2);
  return Buffer.concat([ports, parseAddress(name.localAddress), parseAddress(name.remoteAddress)]);
}

function parseAddress(text: string): Buffer {
  const bytes = Buffer.alloc(16);
  const asIpv6 = text.includes(":") ? text : `::ffff:${text}`;
  if (inetPton(AF_INET6, asIpv6, bytes) !== 1) {
    throw new TorporError("argument.invalid", `${text} is no address`);
  }
  return bytes;
}

function statesBut(...left: readonly number[]): number {
  let states = 0;
  for (let state = 1; state <= tcpStateMax; state += 1) {
    if (!left.includes(state)) states |= 1 << state;
  }
  return states;
}
