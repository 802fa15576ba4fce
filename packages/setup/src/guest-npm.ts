/**
 * npm for the guest: one version of the registry's own package, which includes its dependencies.
 *
 * Debian's npm would bring some 300 packages and a second Node; a dependency of this workspace
 * would precede the machine's own npm in the PATH of every npm script.
 */
import { createHash } from "node:crypto";
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { type Deadline, TorporError, runCommand } from "@torpor/std";
import type { LayerInputs } from "./layers.ts";

const npmVersion = "11.21.2";
/** SHA-512 of the archive, as package-lock.json files have it. */
const npmIntegrity =
  "7HPApk+AflMUavSseL1Pm6CnYqMIHk53x+KmuhqmTDqPkjPMgxIpTPcTqsE91EKNw4gFBJV9fnXiSdGm1DXq9A==";
/** A third of a megabyte each in every guest's disk, and only people read them. */
const leftOut: readonly string[] = ["package/docs", "package/man"];

/** Everything that decides the content of the npm layer, for its key. */
export const guestNpmInputs: LayerInputs = { npmVersion, npmIntegrity, leftOut };

/**
 * Fetches the package into `dir` with this machine's npm, from the registry that npm uses.
 * @throws command.notFound, command.failed
 */
export async function buildGuestNpmLayer(dir: string, deadline: Deadline): Promise<void> {
  const archive = join(dir, `npm-${npmVersion}.tgz`);
  await runCommand(
    ["npm", "pack", `npm@${npmVersion}`, "--pack-destination", dir, "--loglevel=error"],
    deadline,
    // A user may have set a registry for `npm ci` in this checkout.
    { cwd: join(import.meta.dirname, "../../..") },
  );
  const digest = createHash("sha512")
    .update(await readFile(archive))
    .digest("base64");
  if (digest !== npmIntegrity) {
    throw new TorporError("command.failed", `npm ${npmVersion} is not what the registry had`, {
      advice: "Check which registry `npm config get registry` names, and try again.",
    });
  }
  await runCommand(
    [
      ...(["tar", "--extract", "--file", archive, "--directory", dir] as const),
      ...["--strip-components=1", "--no-same-owner"],
      ...leftOut.map((path) => `--exclude=${path}`),
    ],
    deadline,
  );
  await rm(archive);
}
