/**
 * Starts one process of a user: in its own session, in the user cgroup, as that user, with real
 * pipes or a terminal as its standard streams. It knows nothing of events or clients; process.ts
 * manages the running process.
 *
 * A child begins as `/bin/sh`, which joins the cgroup, makes itself a better victim of the OOM
 * killer than the agent, takes the terminal, and becomes the command by `exec`. The process id
 * stays the same. Under emulation each `exec` costs some 10 ms, so `setpriv` joins the chain only
 * where it is needed: when the user has groups besides the primary one, which Node's own `uid`
 * option would drop.
 *
 * Fails with ConnectError `invalid_argument` for what the request got wrong (folder, command) and
 * `aborted` or `failed_precondition` when the machine has no process, terminal, descriptor or room
 * left.
 */
import { type ChildProcess, type StdioOptions, spawn } from "node:child_process";
import { closeSync, constants, existsSync, fchownSync } from "node:fs";
import { Socket } from "node:net";
import { posix } from "node:path";
import { Code, ConnectError } from "@connectrpc/connect";
import { openPipe, openPty, resizePty } from "@torpor/native";
import { systemCode } from "@torpor/std";
import type { User } from "./accounts.ts";
import type { Gate } from "./gate.ts";
import { access, stat, within } from "./launch-checks.ts";
import { PtyStream } from "./pty-stream.ts";
import type { QuietTimers } from "./quiet-timers.ts";
import { isOnDisk } from "./root-disk.ts";
import { asConnectError, isLack } from "./system-errors.ts";
import type { FamilyCgroup, UserCgroup } from "./user-cgroup.ts";

const shell = "/bin/sh";
const setpriv = "/usr/bin/setpriv";
/** Descriptor number of the cgroup in the child, the first after the standard streams. */
const cgroupFd = 3;
/** Exit code of a child that could not join its cgroup: it must not run where no freeze reaches it. */
const joinFailed = 125;

/** One command to start. */
export interface LaunchRequest {
  readonly user: User;
  readonly command: string;
  readonly args: readonly string[];
  readonly cwd: string;
  readonly env: Readonly<Record<string, string>>;
  /** False: the process reads end of file at once. */
  readonly stdin: boolean;
  readonly terminal: TerminalSize | undefined;
}

/** Size of a terminal window, in characters. */
export interface TerminalSize {
  readonly cols: number;
  readonly rows: number;
}

/** The parts of the agent that every start uses. */
export interface LaunchContext {
  readonly gate: Gate;
  readonly cgroup: UserCgroup | undefined;
  readonly timers: QuietTimers;
}

/** A started process. The caller disposes of its streams and its family. */
export interface Launched {
  readonly child: ChildProcess;
  readonly pid: number;
  readonly streams: Pipes | Terminal;
  /** The cgroup of the process and its descendants, if there is a user cgroup. */
  readonly family: FamilyCgroup | undefined;
}

/** The agent's ends of the process's pipes. */
export interface Pipes {
  readonly kind: "pipes";
  /** Undefined when the process was started without input. */
  readonly stdin: Socket | undefined;
  readonly stdout: Socket;
  readonly stderr: Socket;
}

/** The agent's end of the process's terminal. */
export interface Terminal {
  readonly kind: "terminal";
  readonly pty: PtyStream;
}

/**
 * Checks that folder and command are there, then starts.
 * @throws ConnectError invalid_argument, aborted, failed_precondition, unavailable
 */
export async function launch(request: LaunchRequest, context: LaunchContext): Promise<Launched> {
  const checks = checkFolder(request.cwd).then(async () => await checkExecutable(request));
  await within(checks, context.timers);
  return await launchUnchecked(request, context);
}

/**
 * Starts a command that is known to be there. Waits for no thread of the pool.
 * @throws as `launch`
 */
export async function launchUnchecked(
  request: LaunchRequest,
  context: LaunchContext,
): Promise<Launched> {
  try {
    return await spawnInto(request, context);
  } catch (cause) {
    throw asLaunchError(cause);
  }
}

async function spawnInto(request: LaunchRequest, context: LaunchContext): Promise<Launched> {
  // ORDER: nothing is awaited between this check and the spawn.
  context.gate.check();
  using childEnds = new DisposableStack();
  using agentEnds = new DisposableStack();
  const ends =
    request.terminal === undefined
      ? openPipes(request, childEnds, agentEnds)
      : openTerminal(request, request.terminal, childEnds, agentEnds, context.timers);
  const stdio: StdioOptions = [...ends.stdio];
  const script = ["{"];
  const family = context.cgroup?.makeFamily();
  if (family !== undefined) {
    agentEnds.use(family);
    stdio.push(childEnds.use(family.openJoin()).fd);
    script.push(`echo 0 >&${cgroupFd} || exit ${joinFailed};`);
  }
  // Standard error is closed rather than led to /dev/null, which a guest's root may have made
  // unusable for other users.
  script.push("echo 100 >/proc/self/oom_score_adj; } 2>&-;");
  if (family !== undefined) script.push(`exec ${cgroupFd}>&-;`);
  // Opening a terminal makes it the controlling one of a session leader that has none.
  if (ends.slavePath !== undefined) script.push(`: <${ends.slavePath};`);
  const identity = becomeUser(request.user);
  script.push(`exec ${identity.prefix} "$@"`);
  const child = spawn(shell, ["-c", script.join(" "), "sh", request.command, ...request.args], {
    cwd: request.cwd,
    env: { ...request.env },
    stdio,
    detached: true,
    ...identity.options,
  });
  const { pid } = child;
  if (pid === undefined) {
    const failed = Promise.withResolvers<never>();
    child.once("error", failed.reject);
    return await failed.promise;
  }
  child.on("error", () => undefined);
  agentEnds.move();
  return { child, pid, streams: ends.streams, family };
}

interface Ends {
  /** The child's descriptors 0, 1 and 2. */
  readonly stdio: readonly (number | "ignore")[];
  readonly streams: Pipes | Terminal;
  readonly slavePath: string | undefined;
}

function openPipes(
  request: LaunchRequest,
  childEnds: DisposableStack,
  agentEnds: DisposableStack,
): Ends {
  const adopt = (childFd: number, agentFd: number, writable: boolean): Socket => {
    childEnds.adopt(childFd, closeSync);
    // Owned by the user; otherwise a process that is not root could not open `/dev/stdout`.
    fchownSync(childFd, request.user.uid, request.user.gid);
    const socket = new Socket({ fd: agentFd, readable: !writable, writable });
    socket.on("error", () => undefined);
    agentEnds.adopt(socket, (end) => end.destroy());
    return socket;
  };
  const output = (): { fd: number; socket: Socket } => {
    const pipe = openPipe();
    return { fd: pipe.writeFd, socket: adopt(pipe.writeFd, pipe.readFd, false) };
  };
  const input = (): { fd: number; socket: Socket } => {
    const pipe = openPipe();
    return { fd: pipe.readFd, socket: adopt(pipe.readFd, pipe.writeFd, true) };
  };
  const stdin = request.stdin ? input() : undefined;
  const stdout = output();
  const stderr = output();
  return {
    stdio: [stdin?.fd ?? "ignore", stdout.fd, stderr.fd],
    streams: {
      kind: "pipes",
      stdin: stdin?.socket,
      stdout: stdout.socket,
      stderr: stderr.socket,
    },
    slavePath: undefined,
  };
}

function openTerminal(
  request: LaunchRequest,
  size: TerminalSize,
  childEnds: DisposableStack,
  agentEnds: DisposableStack,
  timers: QuietTimers,
): Ends {
  const { masterFd, slaveFd, slavePath } = openPty();
  childEnds.adopt(slaveFd, closeSync);
  const pty = agentEnds.adopt(new PtyStream(masterFd, timers), (end) => end.destroy());
  resizePty(masterFd, size.cols, size.rows);
  fchownSync(slaveFd, request.user.uid, request.user.gid);
  return {
    stdio: [slaveFd, slaveFd, slaveFd],
    streams: { kind: "terminal", pty },
    slavePath,
  };
}

interface Become {
  /** Runs in front of the command, by `exec`. */
  readonly prefix: string;
  readonly options: { uid?: number; gid?: number };
}

function becomeUser(user: User): Become {
  if (process.geteuid?.() !== 0) return { prefix: "", options: {} };
  if (user.otherGroups.length > 0 && existsSync(setpriv)) {
    const ids = `--reuid=${user.uid} --regid=${user.gid}`;
    return { prefix: `${setpriv} ${ids} --init-groups --`, options: {} };
  }
  // Setting root's ids again would only drop groups, and the agent has none.
  if (user.uid === 0) return { prefix: "", options: {} };
  return { prefix: "", options: { uid: user.uid, gid: user.gid } };
}

async function checkFolder(cwd: string): Promise<void> {
  const stats = await stat(cwd).catch((cause: unknown) => {
    if (systemCode(cause) === "ENOENT") return undefined;
    return refuseFolder(cwd)(cause);
  });
  if (stats === undefined) {
    throw new ConnectError(`cwd '${cwd}' does not exist`, Code.InvalidArgument);
  }
  if (!stats.isDirectory()) {
    throw new ConnectError(`cwd '${cwd}' is not a directory`, Code.InvalidArgument);
  }
  // The spawn enters the folder while the agent's event loop stands still: find out here if its
  // server is dead.
  if (!isOnDisk(stats)) await access(cwd, constants.X_OK).catch(refuseFolder(cwd));
}

function refuseFolder(cwd: string): (cause: unknown) => never {
  return (cause) => {
    if (cause instanceof ConnectError) throw cause;
    throw new ConnectError(`cwd '${cwd}' cannot be used`, Code.InvalidArgument, {}, [], cause);
  };
}

/**
 * Finds the command as `exec` will, so that Start reports a missing command, instead of exit code
 * 127.
 */
async function checkExecutable(request: LaunchRequest): Promise<void> {
  const { command, cwd, env } = request;
  if (command === "") throw new ConnectError("cmd must not be empty", Code.InvalidArgument);
  if (
    [command, ...request.args, ...Object.entries(env).flat()].some((text) => text.includes("\0"))
  ) {
    throw new ConnectError("no argument may contain a zero byte", Code.InvalidArgument);
  }
  const candidates = command.includes("/")
    ? [posix.resolve(cwd, command)]
    : (env["PATH"] ?? "").split(":").map((folder) => posix.resolve(cwd, folder, command));
  let denied = false;
  for (const candidate of candidates) {
    const stats = await stat(candidate).catch((cause: unknown) => {
      if (cause instanceof ConnectError) throw cause;
      return undefined;
    });
    if (stats === undefined) continue;
    const runnable = stats.isFile() && (await isExecutable(candidate));
    if (runnable) return;
    denied = true;
  }
  const reason = denied ? "permission denied" : "no such file or directory";
  throw new ConnectError(`cannot start '${command}': ${reason}`, Code.InvalidArgument);
}

async function isExecutable(path: string): Promise<boolean> {
  return await access(path, constants.X_OK).then(
    () => true,
    () => false,
  );
}

function asLaunchError(cause: unknown): ConnectError {
  const error = asConnectError(cause, "cannot start the process");
  if (error === cause || isLack(error)) return error;
  return new ConnectError(error.rawMessage, Code.InvalidArgument, {}, [], cause);
}
