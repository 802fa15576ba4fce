/** The supervisor as a program; the daemon inherits its environment and writes to the same log. */
import { statSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { jsonLogger } from "@torpor/std";
import { defaultStateFolder, stateFiles } from "@torpor/storage";
import { supervise } from "./supervisor.ts";

const log = jsonLogger((line) => process.stderr.write(line));
const end = new AbortController();
for (const name of ["SIGTERM", "SIGINT"] as const) process.on(name, () => end.abort());
const main = fileURLToPath(new URL("main.ts", import.meta.url));
const downPath = join(defaultStateFolder(), stateFiles.down);
process.exitCode = await supervise({
  argv: [process.execPath, main],
  log,
  signal: end.signal,
  downAtMs: () => statSync(downPath, { throwIfNoEntry: false })?.mtimeMs ?? 0,
});
