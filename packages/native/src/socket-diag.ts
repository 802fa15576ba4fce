/**
 * Destroys TCP connections of other programs, found in the kernel's own list of them
 * (sock_diag(7)).
 *
 * A program that uses such a connection gets ECONNABORTED at once, instead of waiting minutes for a
 * far end that does not know the connection any more; the far end is sent a reset.
 *
 * A pass lists the connections of the current network namespace and then destroys them. The list
 * changes meanwhile, so that some are missed; further passes follow until one finds none left.
 *
 * Spared are listening sockets, connections with both ends in this machine, one connection that the
 * caller names, and the remains of connections that both ends have closed (TIME_WAIT): no program
 * uses those, and older kernels cannot destroy them.
 *
 * The kernel answers within the call that asks, so nothing here waits; the deadline bounds the
 * work. A guest may have tens of thousands of connections and a slow emulated processor, so entries
 * are read where the kernel put them, and requests are copies of one pattern.
 */
import { constants } from "node:os";
import { type Deadline, TorporError } from "@torpor/std";
import { check, lastErrno, libc, systemError } from "./libc.ts";
import { netlinkHeader, openNetlink, receiveNetlink, sendNetlink } from "./netlink.ts";

const AF_INET = 2;
const AF_INET6 = 10;
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
/**
 * In these states a connection without a program was closed by it, and only its peer must still be
 * notified.
 */
const partingStates: readonly number[] = [
  tcpState.finWait1,
  tcpState.finWait2,
  tcpState.lastAck,
  tcpClosing,
];

const { bytes: headerBytes, lengthAt, typeAt, flagsAt, sequenceAt } = netlinkHeader;
/** struct inet_diag_req_v2: family, protocol, two spare bytes, states, struct inet_diag_sockid. */
const requestBytes = headerBytes + 56;
const requestStatesAt = headerBytes + 4;
const requestIdAt = headerBytes + 8;
/** struct inet_diag_msg: family, state, two timers, struct inet_diag_sockid, five numbers. */
const entryBytes = headerBytes + 72;
const entryStateAt = headerBytes + 1;
const entryIdAt = headerBytes + 4;
const entryInodeAt = headerBytes + 68;
/** struct inet_diag_sockid: two ports, two addresses, interface, cookie. */
const idBytes = 48;
const idSourceAt = 4;
const idTargetAt = 20;
/** The body of NLMSG_ERROR: a number, and the header of the request. */
const errorAt = headerBytes;
const errorSequenceAt = headerBytes + 4 + sequenceAt;
/**
 * Marks requests for connections in use; it is repeated in the answer, and only their refusals
 * matter.
 */
const sequenceOfInUse = 1;

/** The kernel fills at most this much in one call. */
const receiveBytes = 64 << 10;
/** Requests in one send; the answers of all must fit into the socket's receive buffer. */
const batchRequests = 64;
/** LIMIT: 1.2 MB of requests in one pass, in a program that shares its guest's memory. */
const passRequestsMax = 16_384;

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

/** The result of `destroyTcpConnections`. */
export interface DestroyedConnections {
  /** Connections that a program used, or that waited for one to accept them. */
  readonly count: number;
  /** False if the time was over before all were destroyed. */
  readonly complete: boolean;
}

/**
 * Destroys every TCP connection of the current network namespace but the spared ones (see above).
 * Safe to repeat.
 * @throws system error ENOENT where the kernel keeps no such list, EPERM without CAP_NET_ADMIN,
 * EOPNOTSUPP where it cannot destroy them.
 */
export function destroyTcpConnections(
  spared: TcpConnectionName | undefined,
  deadline: Deadline,
): DestroyedConnections {
  const sparedName = spared === undefined ? undefined : nameBytes(spared);
  let count = 0;
  while (!deadline.expired) {
    const victims = listVictims(sparedName, deadline);
    const refusals: number[] = [];
    const asked = destroyAll(victims.batches, refusals, deadline);
    const [errno] = refusals;
    if (errno !== undefined && refusals.length === asked) {
      throw systemError(errno, "sock_diag destroy");
    }
    count += asked - refusals.length;
    // Closing connections may take their time, and older kernels do not destroy them.
    if (victims.complete && victims.inUse === 0) return { count, complete: true };
  }
  return { count, complete: false };
}

/** Consecutive requests, all of one family. */
interface Batch {
  readonly bytes: Buffer;
  requests: number;
  /** How many of the requests are for a connection in use. */
  inUse: number;
}

interface Victims {
  readonly batches: readonly Batch[];
  readonly inUse: number;
  /** Whether the list is complete. */
  readonly complete: boolean;
}

function listVictims(sparedName: Buffer | undefined, deadline: Deadline): Victims {
  const batches: Batch[] = [];
  let complete = true;
  for (const family of [AF_INET, AF_INET6]) {
    using list = openNetlink(NETLINK_SOCK_DIAG);
    const request = newRequest(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family);
    request.writeUInt32LE(wantedStates, requestStatesAt);
    sendNetlink(list.fd, request);
    complete = collectVictims(list.fd, family, sparedName, batches, deadline) && complete;
  }
  return { batches, inUse: batches.reduce((sum, { inUse }) => sum + inUse, 0), complete };
}

/** Reads the list to its end; returns false if it is longer than a pass or the deadline allows. */
function collectVictims(
  fd: number,
  family: number,
  sparedName: Buffer | undefined,
  batches: Batch[],
  deadline: Deadline,
): boolean {
  const pattern = newRequest(SOCK_DESTROY, 0, family);
  const isSpared = family === AF_INET ? isSparedIpv4 : isSparedIpv6;
  let batch: Batch | undefined;
  for (;;) {
    if (deadline.expired) return false;
    const bytes = receiveSome(fd);
    for (const at of messagesIn(bytes)) {
      const type = bytes.readUInt16LE(at + typeAt);
      if (type === NLMSG_DONE) return true;
      if (type === NLMSG_ERROR) {
        throw systemError(-bytes.readInt32LE(at + errorAt), "sock_diag list");
      }
      if (bytes.readUInt32LE(at) < entryBytes || isSpared(bytes, at + entryIdAt, sparedName))
        continue;
      if (batch === undefined || batch.requests === batchRequests) {
        if (batches.length * batchRequests >= passRequestsMax) return false;
        batch = {
          bytes: Buffer.alloc(batchRequests * requestBytes, pattern),
          requests: 0,
          inUse: 0,
        };
        batches.push(batch);
      }
      addRequest(batch, bytes, at);
    }
  }
}

function addRequest(batch: Batch, bytes: Buffer, at: number): void {
  const requestAt = batch.requests * requestBytes;
  const idAt = at + entryIdAt;
  bytes.copy(batch.bytes, requestAt + requestIdAt, idAt, idAt + idBytes);
  batch.requests += 1;
  const hasProgram = bytes.readUInt32LE(at + entryInodeAt) !== 0;
  if (!hasProgram && partingStates.includes(bytes.readUInt8(at + entryStateAt))) return;
  batch.bytes.writeUInt32LE(sequenceOfInUse, requestAt + sequenceAt);
  batch.inUse += 1;
}

/**
 * Adds to `refusals` the errno for each connection in use that the kernel did not destroy.
 * @returns For how many connections in use a request was sent; not all if the time is over.
 */
function destroyAll(batches: readonly Batch[], refusals: number[], deadline: Deadline): number {
  using diag = openNetlink(NETLINK_SOCK_DIAG);
  let asked = 0;
  for (const { bytes, requests, inUse } of batches) {
    if (deadline.expired) break;
    sendNetlink(diag.fd, bytes.subarray(0, requests * requestBytes));
    readRefusals(diag.fd, refusals);
    asked += inUse;
  }
  return asked;
}

/** Reads refusals; unless asked for more, the kernel answers with nothing else. */
function readRefusals(fd: number, refusals: number[]): void {
  for (;;) {
    const bytes = receiveSome(fd);
    if (bytes.length === 0) return;
    for (const at of messagesIn(bytes)) {
      if (bytes.readUInt16LE(at + typeAt) !== NLMSG_ERROR) continue;
      if (bytes.readUInt32LE(at + errorSequenceAt) !== sequenceOfInUse) continue;
      const errno = -bytes.readInt32LE(at + errorAt);
      const isGone = errno === constants.errno.ENOENT || errno === constants.errno.ESTALE;
      if (!isGone) refusals.push(errno);
    }
  }
}

/** Receives one datagram from the kernel; empty if there is none. */
function receiveSome(fd: number): Buffer {
  const bytes = Buffer.allocUnsafe(receiveBytes);
  const length = receiveNetlink(fd, bytes, MSG_DONTWAIT);
  if (length === -1 && lastErrno() === constants.errno.EAGAIN) return bytes.subarray(0, 0);
  return bytes.subarray(0, check(length, "recv"));
}

/** The offsets in `bytes` at which messages begin. */
function messagesIn(bytes: Buffer): readonly number[] {
  const starts: number[] = [];
  for (let at = 0; at + headerBytes <= bytes.length;) {
    const messageBytes = bytes.readUInt32LE(at);
    if (messageBytes < headerBytes || at + messageBytes > bytes.length) break;
    starts.push(at);
    at += (messageBytes + 3) & ~3;
  }
  return starts;
}

/** A request about TCP with only its family filled in. */
function newRequest(type: number, flags: number, family: number): Buffer {
  const bytes = Buffer.alloc(requestBytes);
  bytes.writeUInt32LE(requestBytes, lengthAt);
  bytes.writeUInt16LE(type, typeAt);
  bytes.writeUInt16LE(NLM_F_REQUEST | flags, flagsAt);
  bytes.writeUInt8(family, headerBytes);
  bytes.writeUInt8(IPPROTO_TCP, headerBytes + 1);
  return bytes;
}

/**
 * Whether it is loopback, or from an address to itself, so that both ends were saved and both
 * continue; or the named one.
 */
function isSparedIpv4(bytes: Buffer, idAt: number, name: Buffer | undefined): boolean {
  const sourceAt = idAt + idSourceAt;
  const targetAt = idAt + idTargetAt;
  if (bytes[sourceAt] === 127 || bytes[targetAt] === 127) return true;
  if (bytes.readUInt32LE(sourceAt) === bytes.readUInt32LE(targetAt)) return true;
  if (name === undefined || !hasPorts(bytes, idAt, name)) return false;
  const source = bytes.subarray(sourceAt, sourceAt + 4);
  const target = bytes.subarray(targetAt, targetAt + 4);
  return Buffer.concat([mappedPrefix, source, mappedPrefix, target]).equals(name.subarray(4));
}

function isSparedIpv6(bytes: Buffer, idAt: number, name: Buffer | undefined): boolean {
  const source = bytes.subarray(idAt + idSourceAt, idAt + idTargetAt);
  const target = bytes.subarray(idAt + idTargetAt, idAt + idTargetAt + 16);
  if (isLoopback(source) || isLoopback(target) || source.equals(target)) return true;
  if (name === undefined || !hasPorts(bytes, idAt, name)) return false;
  return Buffer.concat([source, target]).equals(name.subarray(4));
}

const mappedPrefix = Buffer.from("00000000000000000000ffff", "hex");
const mappedLoopback = Buffer.concat([mappedPrefix, Buffer.from([127])]);
const loopback = Buffer.from("00000000000000000000000000000001", "hex");

function isLoopback(address: Buffer): boolean {
  return address.subarray(0, 13).equals(mappedLoopback) || address.equals(loopback);
}

function hasPorts(bytes: Buffer, idAt: number, name: Buffer): boolean {
  return bytes.readUInt32LE(idAt) === name.readUInt32LE(0);
}

/** Ports as the kernel lists them, then both addresses, IPv4 ones as mapped to IPv6. */
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
