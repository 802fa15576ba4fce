/**
 * Unix stream sockets for what Node's cannot do: sending descriptors along with bytes (SCM_RIGHTS),
 * and identifying the process at the other end (unix(7)).
 *
 * None of these calls blocks, except `connectUnix`, and `sendWithFds` on its descriptor, while the
 * far end's queue is full. A caller polls before it accepts or receives.
 */
import { closeSync } from "node:fs";
import { constants } from "node:os";
import koffi from "koffi";
import { TorporError } from "@torpor/std";
import { check, lastErrno, libc, systemError } from "./libc.ts";

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_NONBLOCK = 0x800;
const SOCK_CLOEXEC = 0x8_0000;
const SOL_SOCKET = 1;
const SO_PEERCRED = 17;
const SCM_RIGHTS = 1;
const MSG_CTRUNC = 8;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x4000_0000;
/** struct sockaddr_un: a family of two bytes, then the path and a zero. */
const pathBytesMax = 107;
const backlog = 8;

/** struct msghdr: name, its length, vector, count, control, its length, flags. */
const messageHeaderBytes = 56;
const vectorAt = 16;
const controlAt = 32;
const controlLengthAt = 40;
const flagsAt = 48;
/** struct cmsghdr: length, level, type; then the descriptors. */
const controlHeaderBytes = 16;
/** LIMIT: descriptors in one message; the kernel closes those that do not fit, and reports it. */
const descriptorsMax = 8;

const socket = libc.func("int socket(int domain, int type, int protocol)") as (
  domain: number,
  type: number,
  protocol: number,
) => number;
const bind = libc.func("int bind(int fd, void *address, uint32_t length)") as AddressCall;
const connect = libc.func("int connect(int fd, void *address, uint32_t length)") as AddressCall;
const listen = libc.func("int listen(int fd, int backlog)") as (
  fd: number,
  backlog: number,
) => number;
const accept4 = libc.func("int accept4(int fd, long address, long length, int flags)") as (
  fd: number,
  address: number,
  length: number,
  flags: number,
) => number;
const recvmsg = libc.func("long recvmsg(int fd, void *message, int flags)") as MessageCall;
const sendmsg = libc.func("long sendmsg(int fd, void *message, int flags)") as MessageCall;
const send = libc.func("long send(int fd, void *bytes, size_t length, int flags)") as (
  fd: number,
  bytes: Uint8Array,
  length: number,
  flags: number,
) => number;
const getsockopt = libc.func(
  "int getsockopt(int fd, int level, int name, void *value, void *length)",
) as (fd: number, level: number, name: number, value: Uint8Array, length: Uint8Array) => number;

type AddressCall = (fd: number, address: Uint8Array, length: number) => number;
type MessageCall = (fd: number, message: Uint8Array, flags: number) => number;

/** Bytes and descriptors that arrived together. The caller closes the descriptors. */
export interface ReceivedMessage {
  readonly bytes: Buffer;
  readonly fds: readonly number[];
}

/**
 * Listens on a path. The caller closes the descriptor and removes the file.
 * @throws system error EADDRINUSE, ENOENT, EACCES
 */
export function listenUnix(path: string): number {
  const fd = check(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), "socket");
  try {
    const address = unixAddress(path);
    check(bind(fd, address, address.length), "bind");
    check(listen(fd, backlog), "listen");
    return fd;
  } catch (cause) {
    closeSync(fd);
    throw cause;
  }
}

/** Accepts a connection. @returns undefined if none is waiting. @throws a system error */
export function acceptUnix(listener: number): number | undefined {
  const fd = accept4(listener, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd !== -1) return fd;
  const errno = lastErrno();
  if (errno === constants.errno.EAGAIN || errno === constants.errno.ECONNABORTED) return undefined;
  throw systemError(errno, "accept4");
}

/** Connects to a path. @throws system error ECONNREFUSED, ENOENT */
export function connectUnix(path: string): number {
  const fd = check(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
  try {
    const address = unixAddress(path);
    check(connect(fd, address, address.length), "connect");
    return fd;
  } catch (cause) {
    closeSync(fd);
    throw cause;
  }
}

/** The id of the process that connected, as it was then. @throws a system error */
export function peerProcess(fd: number): number {
  const credentials = Buffer.alloc(12);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(credentials.length);
  check(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, credentials, length), "getsockopt");
  return credentials.readInt32LE(0);
}

/**
 * Receives bytes and the descriptors that came with them.
 * @returns undefined if nothing has arrived yet; a message without bytes if the far end has closed.
 * @throws system error, also EMFILE if descriptors arrived for which this process has no room.
 */
export function receiveWithFds(fd: number, bytesMax: number): ReceivedMessage | undefined {
  const bytes = Buffer.alloc(bytesMax);
  const control = Buffer.alloc(controlHeaderBytes + descriptorsMax * 4);
  const message = messageHeader(bytes, control);
  const length = recvmsg(fd, message.header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (length === -1) {
    const errno = lastErrno();
    if (errno === constants.errno.EAGAIN || errno === constants.errno.EINTR) return undefined;
    throw systemError(errno, "recvmsg");
  }
  const controlLength = Number(message.header.readBigUInt64LE(controlLengthAt));
  const fds = readDescriptors(control.subarray(0, controlLength));
  if ((message.header.readInt32LE(flagsAt) & MSG_CTRUNC) !== 0) {
    for (const one of fds) closeSync(one);
    throw systemError(constants.errno.EMFILE, "recvmsg");
  }
  return { bytes: bytes.subarray(0, length), fds };
}

/**
 * Sends bytes and descriptors in one message, for a receiver that reads at once. Returns the number
 * of bytes sent.
 * @throws a system error
 */
export function sendWithFds(fd: number, bytes: Buffer, fds: readonly number[]): number {
  const control = Buffer.alloc(controlHeaderBytes + Math.ceil((fds.length * 4) / 8) * 8);
  control.writeBigUInt64LE(BigInt(controlHeaderBytes + fds.length * 4), 0);
  control.writeInt32LE(SOL_SOCKET, 8);
  control.writeInt32LE(SCM_RIGHTS, 12);
  for (const [index, one] of fds.entries()) {
    control.writeInt32LE(one, controlHeaderBytes + index * 4);
  }
  const { header } = messageHeader(bytes, fds.length === 0 ? Buffer.alloc(0) : control);
  return check(sendmsg(fd, header, MSG_NOSIGNAL), "sendmsg");
}

/**
 * Sends without waiting. "sent": all of it. "full": nothing, as the far end reads too slowly.
 * "gone": the far end is gone, or has received only a part.
 */
export function trySend(fd: number, bytes: Buffer): "sent" | "full" | "gone" {
  const length = send(fd, bytes, bytes.length, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (length === bytes.length) return "sent";
  return length === -1 && lastErrno() === constants.errno.EAGAIN ? "full" : "gone";
}

/**
 * The header points to the vector, and the vector to the bytes: keep both while the header is used.
 */
function messageHeader(bytes: Buffer, control: Buffer): { header: Buffer; vector: Buffer } {
  const vector = Buffer.alloc(128);
  vector.writeBigUInt64LE(koffi.address(bytes), 0);
  vector.writeBigUInt64LE(BigInt(bytes.length), 8);
  const header = Buffer.alloc(128).subarray(0, messageHeaderBytes);
  header.writeBigUInt64LE(koffi.address(vector), vectorAt);
  header.writeBigUInt64LE(1n, vectorAt + 8);
  if (control.length > 0) header.writeBigUInt64LE(koffi.address(control), controlAt);
  header.writeBigUInt64LE(BigInt(control.length), controlLengthAt);
  return { header, vector };
}

function readDescriptors(control: Buffer): readonly number[] {
  const fds: number[] = [];
  for (let at = 0; at + controlHeaderBytes <= control.length;) {
    const length = Number(control.readBigUInt64LE(at));
    if (length < controlHeaderBytes) break;
    if (control.readInt32LE(at + 8) === SOL_SOCKET && control.readInt32LE(at + 12) === SCM_RIGHTS) {
      const end = Math.min(at + length, control.length);
      for (let fdAt = at + controlHeaderBytes; fdAt + 4 <= end; fdAt += 4) {
        fds.push(control.readInt32LE(fdAt));
      }
    }
    at += Math.ceil(length / 8) * 8;
  }
  return fds;
}

function unixAddress(path: string): Buffer {
  const name = Buffer.from(path);
  if (name.length > pathBytesMax) {
    throw new TorporError("argument.invalid", `${path} is too long for a socket`);
  }
  const address = Buffer.alloc(2 + name.length + 1);
  address.writeUInt16LE(AF_UNIX, 0);
  name.copy(address, 2);
  return address;
}
