/**
 * A user who is not root, from nothing to sandboxes that sleep and wake: root builds and shares the
 * cache, the user's own daemon runs what is in it. The command line is the real one, run as that user.
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { constants } from "node:fs";
import { access, chmod, chown, mkdir, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { shareCache } from "@torpor/setup";
import { Deadline, runCommand } from "@torpor/std";
import { defaultCacheFolder, vmmCopyPrefix } from "@torpor/storage";
import { underQemu } from "./qemu-only.ts";

/** Of nobody's account. */
const userId = 64_998;
const main = fileURLToPath(new URL("../../packages/cli/src/main.ts", import.meta.url));
const verbMs = 5 * 60_000;
const copyMs = 5 * 60_000;

interface Result {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** A home, and a copy of the cache as set-up leaves it: for its owner alone. */
class OtherUser {
  readonly home: string;
  readonly cacheFolder: string;

  constructor(folder: string) {
    this.home = join(folder, "home");
    this.cacheFolder = join(folder, "cache");
  }

  static async make(undo: AsyncDisposableStack): Promise<OtherUser> {
    const folder = await mkdtemp(join(tmpdir(), "torpor-user-"));
    undo.defer(() => rm(folder, { recursive: true, force: true }));
    await chmod(folder, 0o755);
    const user = new OtherUser(folder);
    await mkdir(user.home, { mode: 0o700 });
    await chown(user.home, userId, userId);
    await mkdir(user.cacheFolder, { mode: 0o700 });
    const ours = defaultCacheFolder();
    for (const name of await readdir(ours)) {
      if (name !== "templates" && !name.startsWith(vmmCopyPrefix)) continue;
      const copy = ["cp", "--recursive", "--sparse=always", "--reflink=auto"] as const;
      const deadline = Deadline.after(copyMs, "copying the cache");
      await runCommand([...copy, join(ours, name), user.cacheFolder], deadline);
    }
    return user;
  }

  async torpor(...argv: readonly string[]): Promise<Result> {
    const env = {
      PATH: "/usr/bin:/bin",
      HOME: this.home,
      TMPDIR: this.home,
      TORPOR_CACHE: this.cacheFolder,
      TORPOR_PORT: "0",
      TORPOR_SPARES: "0",
      TORPOR_BUDGET_FACTOR: process.env["TORPOR_BUDGET_FACTOR"] ?? "1",
    };
    const options = { cwd: "/", env, uid: userId, gid: userId, timeout: verbMs };
    return await new Promise((resolve) => {
      const child = execFile(process.execPath, [main, ...argv], options, (_error, stdout, stderr) =>
        resolve({ exitCode: child.exitCode ?? -1, stdout, stderr }),
      );
      child.stdin?.end();
    });
  }
}

/** Node, and this checkout, are where another user can read them. */
async function isCheckoutOpen(): Promise<boolean> {
  const look = ["setpriv", `--reuid=${userId}`, "--clear-groups", "test", "-r", main] as const;
  return runCommand(look, Deadline.after(verbMs, "looking")).then(
    () => true,
    () => false,
  );
}

const skip =
  underQemu !== false
    ? underQemu
    : !(await isCheckoutOpen()) && "the checkout is in a folder that is closed to other users";

test("a user without root runs sandboxes of a cache that root shared", { skip }, async () => {
  // ORDER: newest first; the hooks of a test context would remove the folder before the sandbox.
  await using undo = new AsyncDisposableStack();
  const user = await OtherUser.make(undo);

  const closed = await user.torpor("up");
  assert.equal(closed.exitCode, 1);
  assert.ok(closed.stderr.includes(`${user.cacheFolder} is closed to this user\n`), closed.stderr);
  const command = /next: Run as root: TORPOR_CACHE=(\S+) (\S+) up --share\n/.exec(closed.stderr);
  assert.equal(command?.[1], user.cacheFolder, closed.stderr);
  await access(command?.[2] ?? "", constants.X_OK);
  const before = await user.torpor("doctor");
  assert.match(before.stdout, /✘ cache folder .*is closed to this user\n +fix: Run as root: /);

  // What that command does behind set-up, which is not to touch this machine's own cache here.
  await shareCache(user.cacheFolder);
  undo.defer(async () => void (await user.torpor("down")));
  const up = await user.torpor("up");
  assert.equal(up.exitCode, 0, up.stderr);
  assert.match(up.stderr, /Without root VMs are not confined/);

  const ran = await user.torpor("run", "--", "id", "-un");
  assert.deepEqual(ran, { exitCode: 0, stdout: "user\n", stderr: "" });
  const id = (await user.torpor("create")).stdout.trim();
  undo.defer(async () => void (await user.torpor("rm", id)));
  await user.torpor("exec", id, "--", "sh", "-c", "echo kept >/tmp/file");
  assert.equal((await user.torpor("pause", id)).stdout, `${id} paused\n`);
  assert.equal((await user.torpor("resume", id)).stdout, `${id} running\n`);
  assert.equal((await user.torpor("exec", id, "--", "cat", "/tmp/file")).stdout, "kept\n");

  const doctor = await user.torpor("doctor");
  assert.equal(doctor.exitCode, 0, doctor.stdout);
  assert.match(doctor.stdout, /! root +no: /);
  assert.match(doctor.stdout, /✔ \/dev\/net\/tun +not needed/);
});
