/**
 * Which IPv4 addresses are this machine's own, and which networks it reaches without a router: what the
 * kernel's interfaces and routes say, all tables of them, as they are at the moment (rtnetlink(7)).
 *
 * The kernel tells of changes on a socket that is looked into with each question, so that an answer is
 * never older than the question and costs one system call where nothing has changed.
 */
import { constants } from "node:os";
import { check, lastErrno, systemError } from "./libc.ts";
import {
  joinNetlinkGroups,
  netlinkHeader,
  openNetlink,
  receiveNetlink,
  sendNetlink,
} from "./netlink.ts";

const AF_INET = 2;
const NETLINK_ROUTE = 0;
const RTM_GETADDR = 22;
const RTM_NEWADDR = 20;
const RTM_GETROUTE = 26;
const RTM_NEWROUTE = 24;
const NLM_F_REQUEST_DUMP = 0x301;
/** The dump was made while something changed. */
const NLM_F_DUMP_INTR = 0x10;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const MSG_DONTWAIT = 0x40;
/** RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE: a link that goes down takes routes along unsaid. */
const changeGroups = 0x1 | 0x10 | 0x40;
const RTN_UNICAST = 1;
/** RTN_LOCAL, RTN_BROADCAST, RTN_ANYCAST */
const ownRouteTypes: readonly number[] = [2, 3, 4];
const RTA_DST = 1;
const RTA_GATEWAY = 5;
const RTA_MULTIPATH = 9;
const RTA_VIA = 18;
const IFA_ADDRESS = 1;
const IFA_LOCAL = 2;

const { bytes: headerBytes, lengthAt, typeAt, flagsAt } = netlinkHeader;
/** struct rtmsg: family, length of the destination, four more, type; struct ifaddrmsg: family, length. */
const routeBytes = 12;
const routeTypeAt = 7;
const prefixAt = 1;
const interfaceBytes = 8;
/** struct rtnexthop: length, two bytes, interface. */
const hopBytes = 8;
const attributeBytes = 4;
const addressBytes = 4;
const addressBits = 32;
/** The kernel fills at most this much at once. */
const receiveBytes = 64 << 10;
/** LIMIT: a network that changes all the time is read as often before the last answer is taken. */
const dumpsMax = 4;
/**
 * LIMIT: a device that leads to more than this, such as a tunnel that all traffic takes, leads to the
 * internet and not to neighbours.
 */
const nearPrefixBitsMin = 8;

export interface NearNetwork {
  /** IPv4, as a number; the first of the network. */
  readonly address: number;
  readonly prefixBits: number;
}

export class NearNetworks implements Disposable {
  readonly #undo = new DisposableStack();
  readonly #changes: number;
  readonly #questions: number;
  readonly #ignored = Buffer.alloc(receiveBytes);
  #known: readonly NearNetwork[] | undefined;

  /** Of the current network namespace. @throws a system error where the kernel has no such sockets */
  constructor() {
    this.#changes = this.#undo.use(openNetlink(NETLINK_ROUTE)).fd;
    this.#questions = this.#undo.use(openNetlink(NETLINK_ROUTE)).fd;
    joinNetlinkGroups(this.#changes, changeGroups);
  }

  /** The same array for as long as nothing has changed. @throws a system error */
  read(): readonly NearNetwork[] {
    // ORDER: a change that comes while they are read is seen by the next call.
    if (this.#hasChanged() || this.#known === undefined) this.#known = this.#readAll();
    return this.#known;
  }

  [Symbol.dispose](): void {
    this.#undo.dispose();
  }

  #hasChanged(): boolean {
    for (let changed = false; ; changed = true) {
      if (receiveNetlink(this.#changes, this.#ignored, MSG_DONTWAIT) >= 0) continue;
      const errno = lastErrno();
      if (errno === constants.errno.EAGAIN) return changed;
      // More was said than the socket holds.
      if (errno !== constants.errno.ENOBUFS) throw systemError(errno, "recv");
    }
  }

  #readAll(): readonly NearNetwork[] {
    const found = new Map<string, NearNetwork>();
    for (const request of [RTM_GETADDR, RTM_GETROUTE]) {
      for (const message of this.#dump(request)) {
        for (const one of nearNetworksOf(message))
          found.set(`${one.address}/${one.prefixBits}`, one);
      }
    }
    return [...found.values()];
  }

  #dump(request: number): readonly Buffer[] {
    for (let count = 1; ; count += 1) {
      const { messages, wasInterrupted } = this.#dumpOnce(request);
      if (!wasInterrupted || count >= dumpsMax) return messages;
    }
  }

  #dumpOnce(request: number): { readonly messages: Buffer[]; readonly wasInterrupted: boolean } {
    sendNetlink(this.#questions, dumpRequest(request));
    const messages: Buffer[] = [];
    let wasInterrupted = false;
    for (;;) {
      const into = Buffer.alloc(receiveBytes);
      const length = check(receiveNetlink(this.#questions, into, MSG_DONTWAIT), "recv");
      for (const message of split(into.subarray(0, length), headerBytes, lengthAt, 4)) {
        const type = message.readUInt16LE(typeAt);
        if (type === NLMSG_ERROR) throw systemError(-message.readInt32LE(headerBytes), "netlink");
        wasInterrupted ||= (message.readUInt16LE(flagsAt) & NLM_F_DUMP_INTR) !== 0;
        if (type === NLMSG_DONE) return { messages, wasInterrupted };
        messages.push(message);
      }
    }
  }
}

/** struct nlmsghdr and struct rtmsg, which is no shorter than struct ifaddrmsg. */
function dumpRequest(type: number): Buffer {
  const bytes = Buffer.alloc(headerBytes + routeBytes);
  bytes.writeUInt32LE(bytes.length, lengthAt);
  bytes.writeUInt16LE(type, typeAt);
  bytes.writeUInt16LE(NLM_F_REQUEST_DUMP, flagsAt);
  bytes.writeUInt8(AF_INET, headerBytes);
  return bytes;
}

/** Of one RTM_NEWADDR or RTM_NEWROUTE; none of anything else. */
export function nearNetworksOf(message: Buffer): readonly NearNetwork[] {
  const body = message.subarray(headerBytes);
  if (body.length < interfaceBytes || body.readUInt8(0) !== AF_INET) return [];
  switch (message.readUInt16LE(typeAt)) {
    case RTM_NEWADDR:
      return networksOfInterface(body);
    case RTM_NEWROUTE:
      return body.length < routeBytes ? [] : networksOfRoute(body);
    default:
      return [];
  }
}

/** Its own address, and the network or the far end that it is on. */
function networksOfInterface(body: Buffer): readonly NearNetwork[] {
  const attributes = attributesOf(body.subarray(interfaceBytes));
  return [
    ...near(attributes.get(IFA_LOCAL), addressBits),
    ...near(attributes.get(IFA_ADDRESS), body.readUInt8(prefixAt)),
  ];
}

/** A route without a router leads to neighbours; a router is one. */
function networksOfRoute(body: Buffer): readonly NearNetwork[] {
  const attributes = attributesOf(body.subarray(routeBytes));
  const hops = [
    attributes,
    ...split(attributes.get(RTA_MULTIPATH) ?? Buffer.alloc(0), hopBytes, 0, 2).map((hop) =>
      attributesOf(hop.subarray(hopBytes)),
    ),
  ];
  const routers = hops.flatMap((hop) => near(hop.get(RTA_GATEWAY), addressBits));
  const type = body.readUInt8(routeTypeAt);
  const leadsThere = hops.every((hop) => !hop.has(RTA_GATEWAY) && !hop.has(RTA_VIA));
  const isNear = ownRouteTypes.includes(type) || (type === RTN_UNICAST && leadsThere);
  return isNear
    ? [...routers, ...near(attributes.get(RTA_DST), body.readUInt8(prefixAt))]
    : routers;
}

function near(bytes: Buffer | undefined, prefixBits: number): readonly NearNetwork[] {
  if (bytes?.length !== addressBytes || prefixBits < nearPrefixBitsMin) return [];
  const mask = -1 << (addressBits - prefixBits);
  return [{ address: (bytes.readUInt32BE(0) & mask) >>> 0, prefixBits }];
}

function attributesOf(bytes: Buffer): ReadonlyMap<number, Buffer> {
  const found = split(bytes, attributeBytes, 0, 2);
  return new Map(found.map((one) => [one.readUInt16LE(2), one.subarray(attributeBytes)]));
}

/** Things that begin with their length, each at the next multiple of four. What is cut short ends them. */
function split(
  bytes: Buffer,
  bytesMin: number,
  lengthOffset: number,
  lengthBytes: number,
): Buffer[] {
  const found: Buffer[] = [];
  for (let at = 0; at + bytesMin <= bytes.length;) {
    const length = bytes.readUIntLE(at + lengthOffset, lengthBytes);
    if (length < bytesMin || at + length > bytes.length) break;
    found.push(bytes.subarray(at, at + length));
    at += (length + 3) & ~3;
  }
  return found;
}
