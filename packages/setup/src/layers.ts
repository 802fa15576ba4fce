/**
 * A cache of artefacts that take long to build: one folder per layer, named by a key of its inputs.
 *
 * INVARIANT: a layer folder that exists is complete. It is built in `staging/`, flushed, and only
 * then renamed; so a Ctrl-C, a crash or a power cut leaves at most a staging folder, which the next
 * builder removes. Builders hold one lock, which the kernel releases when its holder ends (flock),
 * so that a killed builder cannot leave it behind.
 */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { access, mkdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { tryLockFile } from "@torpor/native";
import { type Deadline, TorporError, flushFolder, renameDurably } from "@torpor/std";

/** LIMIT: 64 bits of SHA-256 tell apart every layer a machine will ever hold. */
const keyChars = 16;
const lockPollMs = 200;

/** The inputs of a layer; any change gives another key. */
export type LayerInputs = Readonly<Record<string, string | number | readonly string[]>>;

/** Hashes inputs: the same inputs give the same key, in any order. */
export function layerKey(inputs: LayerInputs): string {
  const sorted = Object.entries(inputs).toSorted(([a], [b]) => (a < b ? -1 : 1));
  return createHash("sha256").update(JSON.stringify(sorted)).digest("hex").slice(0, keyChars);
}

/** SHA-256 of a file, hex. */
export async function hashFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(path), hash);
  return hash.digest("hex");
}

/** The folder of a layer; it may not exist. */
export function layerPath(cacheDir: string, name: string, key: string): string {
  return join(cacheDir, `${name}-${key}`);
}

/** Whether this process can reach something at `path`. */
export async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

/**
 * Returns the folder of a layer, building it when it does not exist. Call under `withCacheLock`.
 * `build` fills the folder it receives; scratch files it leaves there become part of the layer.
 */
export async function ensureLayer(
  cacheDir: string,
  name: string,
  key: string,
  build: (stagingDir: string) => Promise<void>,
): Promise<string> {
  const finished = layerPath(cacheDir, name, key);
  if (await exists(finished)) return finished;
  const staging = join(cacheDir, "staging", `${name}-${key}`);
  await mkdir(staging, { recursive: true, mode: 0o700 });
  try {
    await build(staging);
    await flushFolder(staging);
    await renameDurably(staging, finished);
  } catch (error) {
    await removeTree(staging);
    throw error;
  }
  return finished;
}

/** Removes what interrupted builders left behind. Call under `withCacheLock`. */
export async function removeStaleStaging(cacheDir: string): Promise<void> {
  await removeTree(join(cacheDir, "staging"));
}

/**
 * Runs `work` while no other process works on this cache. Calls `onWait` once if another does.
 * @throws deadline.exceeded when the other process does not finish in time.
 */
export async function withCacheLock<T>(
  cacheDir: string,
  deadline: Deadline,
  onWait: () => void,
  work: () => Promise<T>,
): Promise<T> {
  await mkdir(cacheDir, { recursive: true, mode: 0o700 });
  await using held = new AsyncDisposableStack();
  held.use(await takeLock(join(cacheDir, "build.lock"), deadline, onWait));
  return await work();
}

async function takeLock(path: string, deadline: Deadline, onWait: () => void): Promise<Disposable> {
  for (let attempt = 0; ; attempt += 1) {
    const lock = tryLockFile(path);
    if (lock !== undefined) return lock;
    if (attempt === 0) onWait();
    deadline.check();
    await deadline.sleep(lockPollMs);
  }
}

/**
 * Deletes a tree of our own.
 * SAFETY: a guest tree under construction has the host's /dev mounted in it; deleting through such
 * a mount would delete the host's devices, so a tree with mounts is refused.
 */
export async function removeTree(dir: string): Promise<void> {
  const mounts = await readFile("/proc/self/mounts", "utf8");
  const inside = mounts.split("\n").some((line) => line.split(" ")[1]?.startsWith(`${dir}/`));
  if (inside) {
    throw new TorporError("storage.failed", `something is mounted below ${dir}`, {
      advice: `Unmount what \`findmnt\` shows below ${dir}, then try again.`,
    });
  }
  await rm(dir, { recursive: true, force: true });
}
