/**
 * How the pager learns about its VM: the VMM connects to a socket and sends one message, a
 * description of its memory and the descriptor through which its page faults arrive. Nothing else
 * is ever sent.
 *
 * The message may come in parts, and is complete when it parses. A process that connects and leaves
 * without sending anything is not the VMM.
 */
import { chmodSync, chownSync, closeSync, rmSync } from "node:fs";
import {
  type ReceivedMessage,
  acceptUnix,
  listenUnix,
  openPidfd,
  peerProcess,
  receiveWithFds,
} from "@torpor/native";
import { type Deadline, TorporError } from "@torpor/std";
import { GuestRegions } from "./guest-regions.ts";
import type { Watch } from "./watch.ts";

/** LIMIT: about 150 bytes a region; hotplugged memory has a region for each piece. */
const messageBytesMax = 64 * 1024;

/** The content of the VMM's message. */
export interface VmMemory {
  readonly userfaultfd: number;
  readonly regions: GuestRegions;
}

/** Known as soon as the VMM starts to send, so that it can be ended whatever its message is. */
export interface ConnectedVm {
  readonly pid: number;
  readonly pidfd: number;
}

/**
 * The socket to which the VMM connects. It belongs to the VMM's user, if the VMM has one of its
 * own.
 */
export class VmSocket implements Disposable {
  readonly #path: string;
  readonly #listener: number;

  constructor(path: string, userId: number | undefined) {
    this.#path = path;
    rmSync(path, { force: true });
    this.#listener = listenUnix(path);
    chmodSync(path, 0o600);
    if (userId !== undefined) chownSync(path, userId, userId);
  }

  /**
   * Waits for the VMM and its message; the other descriptors of `watch` get their turns meanwhile.
   * @param undo Takes over the descriptors.
   * @param isWanted Checked between two turns; false ends the waiting.
   * @param onConnected Called before anything that the VMM sent is interpreted.
   * @returns undefined if `isWanted` returned false.
   * @throws deadline.exceeded, vmm.failed, operation.unimplemented
   */
  receive(
    sizeBytes: number,
    watch: Watch,
    undo: DisposableStack,
    isWanted: () => boolean,
    onConnected: (vm: ConnectedVm) => void,
    deadline: Deadline,
  ): VmMemory | undefined {
    for (;;) {
      const connection =
        nextOf(this.#listener, acceptUnix, watch, isWanted, deadline) ?? acceptUnix(this.#listener);
      if (connection === undefined) return undefined;
      using closing = new DisposableStack();
      closing.defer(() => closeSync(connection));
      const pid = peerProcess(connection);
      const know = (): void => onConnected({ pid, pidfd: undo.adopt(openPidfd(pid), closeSync) });
      const message = receiveMessage(connection, undo, watch, isWanted, deadline, know);
      if (message === undefined) {
        // A VM that is just connecting must be ended as well.
        if (!isWanted()) know();
        continue;
      }
      const [userfaultfd, ...more] = message.fds;
      if (userfaultfd === undefined || more.length > 0) {
        throw new TorporError(
          "vmm.failed",
          `the VMM sent ${message.fds.length} descriptors, not 1`,
        );
      }
      return { userfaultfd, regions: GuestRegions.parse(message.text, sizeBytes) };
    }
  }

  [Symbol.dispose](): void {
    closeSync(this.#listener);
    rmSync(this.#path, { force: true });
  }
}

/**
 * @returns undefined if the far end left without sending anything, or if it is no longer wanted.
 */
function receiveMessage(
  connection: number,
  undo: DisposableStack,
  watch: Watch,
  isWanted: () => boolean,
  deadline: Deadline,
  onFirstWord: () => void,
): { readonly text: string; readonly fds: readonly number[] } | undefined {
  const receive = (fd: number): ReceivedMessage | undefined => receiveWithFds(fd, messageBytesMax);
  const fds: number[] = [];
  let text = "";
  for (;;) {
    const part = nextOf(connection, receive, watch, isWanted, deadline);
    if (part === undefined) return undefined;
    for (const fd of part.fds) fds.push(undo.adopt(fd, closeSync));
    if (part.bytes.length === 0) {
      if (text === "" && fds.length === 0) return undefined;
      throw new TorporError("vmm.failed", "the VMM's message about its memory ends early");
    }
    if (text === "") onFirstWord();
    text += part.bytes.toString("latin1");
    if (isWhole(text)) return { text, fds };
    if (text.length >= messageBytesMax) {
      throw new TorporError("vmm.failed", "the VMM's message about its memory does not end");
    }
  }
}

/** Calls `take` whenever the descriptor is readable, until it returns something. */
function nextOf<T>(
  fd: number,
  take: (fd: number) => T | undefined,
  watch: Watch,
  isWanted: () => boolean,
  deadline: Deadline,
): T | undefined {
  using undo = new DisposableStack();
  undo.use(watch.add(fd, () => undefined));
  while (isWanted()) {
    const taken = take(fd);
    if (taken !== undefined) return taken;
    deadline.check();
    watch.turn(deadline.remainingMs());
  }
  return undefined;
}

function isWhole(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
