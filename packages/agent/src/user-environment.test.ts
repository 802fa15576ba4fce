import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdir, mkdtempDisposable, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Identity } from "./identity.ts";
import { UserEnvironment } from "./user-environment.ts";

const user = { name: "ann", uid: 1, gid: 1, home: "/home/ann", shell: "/bin/zsh", otherGroups: [] };
const defaults = {
  PATH: "/home/ann/.local/bin:/bin",
  LANG: "C.UTF-8",
  HOME: "/home/ann",
  USER: "ann",
  LOGNAME: "ann",
  SHELL: "/bin/zsh",
  E2B_SANDBOX: "true",
};

/** Lines of /etc/environment and what a login takes from them. */
const lines: readonly (readonly [line: string, variables: Record<string, string>])[] = [
  ["A=1", { A: "1" }],
  ["  export A=1  ", { A: "1" }],
  ["A='b c'", { A: "b c" }],
  ['A="b c"', { A: "b c" }],
  ["A=$HOME/x `id`", { A: "$HOME/x `id`" }],
  ["A=b=c", { A: "b=c" }],
  ["A=1 # why", { A: "1" }],
  ["# A=1", {}],
  ["A=", {}],
  ["A", {}],
  ["=1", {}],
  ["A-B=1", {}],
  ["1A=1", {}],
  ["A B=1", {}],
  ["A=b\0c", {}],
  ["A=1\nA=2\r", { A: "2" }],
  ["é=1", {}],
  ["__proto__=1", Object.fromEntries([["__proto__", "1"]])],
  ["PATH=/x", { PATH: "/home/ann/.local/bin:/x" }],
  ["PATH=/x:/home/ann/.local/bin", { PATH: "/x:/home/ann/.local/bin" }],
  ["PATH=", {}],
  ["LANG=fr_FR.UTF-8", { LANG: "fr_FR.UTF-8" }],
  ["HOME=/x\nUSER=x\nE2B_SANDBOX=no", {}],
];

test("what a login takes from /etc/environment", async () => {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-environment-"));
  for (const [index, [line, variables]] of lines.entries()) {
    const environmentFile = join(folder.path, String(index));
    await writeFile(environmentFile, `${line}\n`);
    const options = { path: "/bin", identity: Identity.open(null), environmentFile };
    const environment = new UserEnvironment({ ...options, localeFile: "/nothing" });
    assert.deepEqual({ ...environment.of(user) }, { ...defaults, ...variables }, line);
  }
});

test("what cannot be read counts as empty, and nothing waits for it", async () => {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-environment-"));
  const environmentFile = join(folder.path, "environment");
  const options = { path: "/bin", identity: Identity.open(null), environmentFile };
  const environment = new UserEnvironment({ ...options, localeFile: environmentFile });
  const makers = [
    () => execFileSync("mkfifo", [environmentFile]),
    () => mkdir(environmentFile),
    () => symlink("/dev/zero", environmentFile),
    () => symlink(environmentFile, environmentFile),
    () => writeFile(environmentFile, `A=${"x".repeat(64 << 10)}\n`),
    () => writeFile(environmentFile, Buffer.alloc(1000, 0xff)),
  ];
  for (const make of makers) {
    await make();
    assert.deepEqual({ ...environment.of(user) }, defaults);
    await rm(environmentFile, { recursive: true });
  }
  await writeFile(environmentFile, "A=1\nLC_TIME=C\n");
  assert.deepEqual({ ...environment.of(user) }, { ...defaults, A: "1", LC_TIME: "C" });
});
