/**
 * The guest's kernel: Debian's cloud kernel of the guest release, as Debian built it.
 *
 * apt fetches it in an environment of its own (lists, cache and sources inside the layer), so that
 * the host's release, pins and package lists make no difference and apt changes none of them. Only
 * the kernel image and a few modules of the package are kept: the initramfs loads those.
 */
import { copyFile, mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { zstdDecompressSync } from "node:zlib";
import {
  type Deadline,
  TorporError,
  parseJson,
  parseObject,
  parseString,
  runCommand,
} from "@torpor/std";
import { aptEnv, guestSourceLines, loadDebianArchives, parseAptStatus } from "./apt.ts";
import { removeTree } from "./layers.ts";
import type { Report } from "./progress.ts";

/** A package that depends on the newest kernel of its release. */
export const kernelMetaPackage = "linux-image-cloud-amd64";

/**
 * ORDER: each module is loaded after those it needs. Some kernels have some of them built in. The
 * diag modules let `ss` in the guest see and end sockets (`ss --kill`); nothing in the guest loads
 * modules on demand.
 */
export const kernelModules: readonly string[] = [
  "virtio_ring",
  "virtio",
  "virtio_mmio",
  "virtio_blk",
  "failover",
  "net_failover",
  "virtio_net",
  "inet_diag",
  "tcp_diag",
  "udp_diag",
];

/** A kernel layer's files. */
export interface GuestKernel {
  /** The kernel's version, as `uname -r` prints it: "6.1.0-56-cloud-amd64". */
  readonly version: string;
  /** The package's version: "6.1.192-2". */
  readonly packageVersion: string;
  readonly vmlinuzPath: string;
  /** In load order. */
  readonly modulePaths: readonly string[];
}

/**
 * Fetches the kernel of `release` and unpacks it, with the given modules, into an empty folder.
 * Needs root and the network.
 */
export async function buildKernelLayer(
  dir: string,
  release: string,
  modules: readonly string[],
  report: Report,
  deadline: Deadline,
): Promise<void> {
  const world = join(dir, "apt");
  const options = await makeAptWorld(world, release, deadline);
  report(0, "package lists");
  await runCommand(["apt-get", ...options, "update", "--quiet"], deadline, { env: aptEnv });
  const { stdout } = await runCommand(
    ["apt-cache", ...options, "show", "--no-all-versions", kernelMetaPackage],
    deadline,
    { env: aptEnv },
  );
  const kernel = parseKernelDependency(stdout);
  report(0.4, kernel.name);
  await runCommand(
    [
      "apt-get",
      ...options,
      ...["download", "--quiet", "-o", "APT::Status-Fd=1"],
      `${kernel.name}=${kernel.version}`,
    ],
    deadline,
    {
      env: aptEnv,
      cwd: world,
      onLine: (line) => {
        const status = parseAptStatus(line);
        if (status !== undefined) report(0.4 + status.fraction * 0.4, kernel.name);
      },
    },
  );
  const archive = (await readdir(world)).find((name) => name.endsWith(".deb"));
  if (archive === undefined) throw missing(`the package ${kernel.name}`);
  report(0.8, "unpacking");
  const unpacked = join(world, "unpacked");
  await runCommand(["dpkg-deb", "--extract", join(world, archive), unpacked], deadline);
  await keepKernel(unpacked, dir, kernel.version, modules, deadline);
  await removeTree(world);
  report(1);
}

/** Reads the layer in `dir` that `buildKernelLayer` filled. */
export async function loadKernelLayer(dir: string): Promise<GuestKernel> {
  const text = await readFile(join(dir, "kernel.json"), "utf8");
  const body = parseObject(parseJson(text, "kernel.json"), "kernel.json");
  const modules = (await readdir(join(dir, "modules"))).toSorted();
  return {
    version: parseString(body["version"], "version"),
    packageVersion: parseString(body["packageVersion"], "packageVersion"),
    vmlinuzPath: join(dir, "vmlinuz"),
    modulePaths: modules.map((name) => join(dir, "modules", name)),
  };
}

/** Finds the kernel package proper in apt-cache's output for the package that depends on it. */
export function parseKernelDependency(text: string): { name: string; version: string } {
  const [, name, version] =
    /^Depends:.*?\b(linux-image-[0-9][^ ,]*-cloud-amd64) \(= ([^)]+)\)/m.exec(text) ?? [];
  if (name === undefined || version === undefined) throw missing("a versioned cloud kernel");
  return { name, version };
}

async function makeAptWorld(
  world: string,
  release: string,
  deadline: Deadline,
): Promise<readonly string[]> {
  const archives = await loadDebianArchives(deadline);
  await mkdir(join(world, "lists", "partial"), { recursive: true });
  await mkdir(join(world, "cache", "archives", "partial"), { recursive: true });
  const lines = await guestSourceLines(archives, release);
  await writeFile(join(world, "sources.list"), `${lines.join("\n")}\n`);
  await writeFile(join(world, "status"), "");
  const settings = {
    "Dir::Etc::SourceList": join(world, "sources.list"),
    "Dir::Etc::SourceParts": "/dev/null",
    "Dir::Etc::Preferences": "/dev/null",
    "Dir::Etc::PreferencesParts": "/dev/null",
    "Dir::State::Lists": join(world, "lists"),
    "Dir::State::Status": join(world, "status"),
    "Dir::Cache": join(world, "cache"),
    // Only root can enter the folder, so apt cannot hand the download to its own user.
    "APT::Sandbox::User": "root",
    "APT::Architecture": "amd64",
    "APT::Default-Release": "",
    "APT::Update::Error-Mode": "any",
    "APT::Update::Post-Invoke-Success": "",
    "Acquire::Languages": "none",
    "Acquire::Retries": "3",
    // Descriptions for software centres; a quarter of the lists.
    "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
  };
  return Object.entries(settings).flatMap(([name, value]) => ["-o", `${name}=${value}`]);
}

async function keepKernel(
  unpacked: string,
  dir: string,
  packageVersion: string,
  modules: readonly string[],
  deadline: Deadline,
): Promise<void> {
  const image = (await readdir(join(unpacked, "boot"))).find((name) => /^vmlinuz-/.test(name));
  if (image === undefined) throw missing("a kernel image");
  const version = image.slice("vmlinuz-".length);
  const [tree] = await findModuleTrees(unpacked, version);
  if (tree === undefined) throw missing(`the modules of ${version}`);
  await copyFile(join(unpacked, "boot", image), join(dir, "vmlinuz"));
  const files = await readdir(tree, { recursive: true });
  const builtIn = await readFile(join(tree, "modules.builtin"), "utf8");
  const chosen = chooseModules(files, builtIn.split("\n"), modules);
  await mkdir(join(dir, "modules"));
  for (const [index, file] of chosen.entries()) {
    const number = String(index).padStart(2, "0");
    const target = join(dir, "modules", `${number}-${basename(file)}`);
    await copyFile(join(tree, file), target);
    await unpackModule(target, deadline);
  }
  const text = JSON.stringify({ version, packageVersion }, undefined, 2);
  await writeFile(join(dir, "kernel.json"), `${text}\n`);
}

async function findModuleTrees(unpacked: string, version: string): Promise<readonly string[]> {
  const found: string[] = [];
  for (const base of ["lib/modules", "usr/lib/modules"]) {
    const path = join(unpacked, base, version);
    const names = await readdir(path).catch(() => []);
    if (names.length > 0) found.push(path);
  }
  return found;
}

/**
 * Chooses the files of the wanted modules, in that order, without those that are built in.
 * @throws command.failed when one is neither a file nor built in.
 */
export function chooseModules(
  files: readonly string[],
  builtIn: readonly string[],
  wanted: readonly string[],
): readonly string[] {
  const nameOf = (file: string): string =>
    basename(file).replaceAll("-", "_").split(".ko")[0] ?? "";
  const byName = new Map(
    files.filter((file) => /\.ko(\.|$)/.test(file)).map((file) => [nameOf(file), file]),
  );
  const included = new Set(builtIn.map(nameOf));
  return wanted.flatMap((name) => {
    const file = byName.get(name);
    if (file !== undefined) return [file];
    if (included.has(name)) return [];
    throw missing(`the module ${name}`);
  });
}

/** The initramfs loads modules as they are, so compressed ones are unpacked here. */
async function unpackModule(path: string, deadline: Deadline): Promise<void> {
  if (path.endsWith(".xz")) await runCommand(["xz", "--decompress", path], deadline);
  if (!path.endsWith(".zst")) return;
  await writeFile(path.slice(0, -".zst".length), zstdDecompressSync(await readFile(path)));
  await removeTree(path);
}

function missing(what: string): TorporError {
  return new TorporError("command.failed", `Debian's kernel package has not got ${what}`, {
    effect: "none",
  });
}
