/**
 * This machine's own IPv4 addresses, and the networks that it reaches without a router: from the
 * current interfaces and from the routes in all of the kernel's tables (rtnetlink(7)).
 *
 * The kernel announces changes on a socket that is checked with each call, so an answer is never
 * older than the call, and costs one system call if nothing has changed.
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
/** Flag of a dump during which something changed. */
const NLM_F_DUMP_INTR = 0x10;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const MSG_DONTWAIT = 0x40;
/**
 * RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE. A link that goes down removes routes without
 * announcing them.
 */
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
/** The kernel fills at most this much in one call. */
const receiveBytes = 64 << 10;
/**
 * LIMIT: dumps that are repeated because the network changes all the time, before the last one is
 * accepted.
 */
const dumpsMax = 4;
/**
 * LIMIT: a device that leads to a larger network than this, such as a tunnel for all traffic, leads
 * to the internet and not to neighbours.
 */
const nearPrefixBitsMin = 8;

/** A network of IPv4 addresses. */
export interface NearNetwork {
  /** The first address of the network, as a number. */
  readonly address: number;
  readonly prefixBits: number;
}

/** Reads the near networks of the network namespace in which it was made. */
export class NearNetworks implements Disposable {
  readonly #undo = new DisposableStack();
  readonly #changes: number;
  readonly #questions: number;
  readonly #ignored = Buffer.alloc(receiveBytes);
  #known: readonly NearNetwork[] | undefined;

  /** @throws a system error if the kernel has no such sockets */
  constructor() {
    this.#changes = this.#undo.use(openNetlink(NETLINK_ROUTE)).fd;
    this.#questions = this.#undo.use(openNetlink(NETLINK_ROUTE)).fd;
    joinNetlinkGroups(this.#changes, changeGroups);
  }

  /** Returns the same array as long as nothing has changed. @throws a system error */
  read(): readonly NearNetwork[] {
    // ORDER: check for changes first, so that a change during the reading is noticed by the next
    // call.
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
      // The kernel announced more than the socket holds.
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

/** Consists of struct nlmsghdr and struct rtmsg, which is no shorter than struct ifaddrmsg. */
function dumpRequest(type: number): Buffer {
  const bytes = Buffer.alloc(headerBytes + routeBytes);
  bytes.writeUInt32LE(bytes.length, lengthAt);
  bytes.writeUInt16LE(type, typeAt);
  bytes.writeUInt16LE(NLM_F_REQUEST_DUMP, flagsAt);
  bytes.writeUInt8(AF_INET, headerBytes);
  return bytes;
}

/** Parses one RTM_NEWADDR or RTM_NEWROUTE; returns none for any other message. */
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

/** Its own address, and the network or the far end on its link. */
function networksOfInterface(body: Buffer): readonly NearNetwork[] {
  const attributes = attributesOf(body.subarray(interfaceBytes));
  return [
    ...near(attributes.get(IFA_LOCAL), addressBits),
    ...near(attributes.get(IFA_ADDRESS), body.readUInt8(prefixAt)),
  ];
}

/** A route without a router leads to neighbours; a router is itself a neighbour. */
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

/**
 * Splits entries that begin with their length, each at the next multiple of four. An entry that is
 * cut short ends the list.
 */
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
