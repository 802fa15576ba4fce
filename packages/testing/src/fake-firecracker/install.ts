/**
 * Puts a fake Firecracker and a fake jailer into a folder, as programs.
 *
 * The fake jailer accepts the real one's arguments and refuses what it refuses; it changes neither
 * root nor user, because Node would not start there, and the fake Firecracker looks for every path
 * in the jail.
 */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { FirecrackerProgram } from "@torpor/vmm";

/** The versions that the fakes report. */
export interface FakeRelease {
  readonly release?: string;
  readonly jailerRelease?: string;
}

/** Installs both programs. @returns how a driver starts them */
export async function installFakeFirecracker(
  folder: string,
  { release = "1.16.1", jailerRelease = release }: FakeRelease = {},
): Promise<FirecrackerProgram> {
  await mkdir(folder, { recursive: true });
  const firecracker = join(folder, "firecracker");
  const jailer = join(folder, "jailer");
  await writeFile(firecracker, firecrackerScript(release), { mode: 0o755 });
  await writeFile(jailer, jailerScript(jailerRelease), { mode: 0o755 });
  return { firecracker, jailer };
}

function firecrackerScript(release: string): string {
  return `#!/bin/bash
if [ "$1" = --version ]; then
  printf 'Firecracker v%s\\n\\nSupported snapshot data format versions: v10.0.0\\n' ${release}
  exit
fi
FAKE_RELEASE=${release} exec ${process.execPath} ${join(import.meta.dirname, "main.ts")} "$@"
`;
}

function jailerScript(release: string): string {
  return `#!/bin/bash
if [ "$1" = --version ]; then printf 'Jailer v%s\\n' ${release}; exit; fi
fail() { echo "$1" >&2; exit 1; }
base=/srv/jailer
while [ $# -gt 0 ]; do
  case "$1" in
    --id) id=$2; shift 2 ;;
    --exec-file) file=$2; shift 2 ;;
    --uid) uid=$2; shift 2 ;;
    --gid) gid=$2; shift 2 ;;
    --chroot-base-dir) base=$2; shift 2 ;;
    --) shift; break ;;
    *) fail "Failed to parse arguments: Found argument '$1' which wasn't expected, or isn't valid in this context." ;;
  esac
done
[[ $id =~ ^[A-Za-z0-9-]{1,64}$ ]] || fail "Invalid instance ID: $id"
[[ $uid =~ ^[0-9]+$ && $gid =~ ^[0-9]+$ ]] || fail "Invalid uid or gid"
[ -f "$file" ] || fail "$file is not a file"
[ -d "$base" ] || fail "$base is not a directory"
root=$(realpath "$base")/$(basename "$file")/$id/root
mkdir -p "$root" && cp "$file" "$root/" || fail "cannot copy $file"
[ "$(ls "$root" | grep -c old_root)" = 0 ] || fail "Failed to create the jail root directory before pivoting root"
mkdir -p "$root/dev/net" "$root/run"
echo -n $$ >"$root/$(basename "$file").pid"
exec env -i FAKE_JAIL_ROOT="$root" PATH=/usr/bin:/bin "$file" --id "$id" --start-time-us 1 --start-time-cpu-us 1 --parent-cpu-time-us 1 "$@"
`;
}
