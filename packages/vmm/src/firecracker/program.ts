/**
 * Chooses the Firecracker to start: the one that FIRECRACKER_BIN and JAILER_BIN name, else the
 * first ones in PATH.
 *
 * Debian has no package of it. A release is one static program and its jailer, so unlike QEMU it
 * needs no copy of further files: the program's checksum is part of its version, and a snapshot
 * wakes only under the very same program.
 */
import { createHash } from "node:crypto";
import { accessSync, constants } from "node:fs";
import { readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { type Deadline, TorporError, runCommand } from "@torpor/std";
import { type ReleaseNumber, assertSupported, formatRelease, parseRelease } from "./version.ts";

const checksumDigits = 12;

/** Paths of Firecracker and of its jailer. */
export interface FirecrackerProgram {
  /** Absolute paths. */
  readonly firecracker: string;
  readonly jailer: string;
}

/** A program whose release was read and found supported. */
export interface InspectedProgram extends FirecrackerProgram {
  readonly release: ReleaseNumber;
  /** Contains the start of the program's SHA-256, because builds of one release may differ. */
  readonly version: string;
}

/** Finds the programs. @throws vmm.missing naming the one that is not there. */
export function installedFirecracker(env: NodeJS.ProcessEnv = process.env): FirecrackerProgram {
  return {
    firecracker: find("firecracker", "FIRECRACKER_BIN", env),
    jailer: find("jailer", "JAILER_BIN", env),
  };
}

/**
 * Reads the release.
 * @throws vmm.missing if it is too old, or if the two are not of one release.
 */
export async function inspectProgram(
  program: FirecrackerProgram,
  deadline: Deadline,
): Promise<InspectedProgram> {
  const release = await readRelease(program.firecracker, deadline);
  assertSupported(release);
  const jailer = await readRelease(program.jailer, deadline);
  if (formatRelease(jailer) !== formatRelease(release)) {
    throw missing(
      `the jailer is ${formatRelease(jailer)} and Firecracker ${formatRelease(release)}`,
    );
  }
  const checksum = createHash("sha256")
    .update(await readFile(program.firecracker))
    .digest("hex");
  const version = `${formatRelease(release)} (${checksum.slice(0, checksumDigits)})`;
  return { ...program, release, version };
}

async function readRelease(path: string, deadline: Deadline): Promise<ReleaseNumber> {
  const { stdout } = await runCommand([path, "--version"], deadline);
  return parseRelease(stdout);
}

function find(name: string, variable: string, env: NodeJS.ProcessEnv): string {
  const named = env[variable];
  const candidates =
    named === undefined
      ? (env["PATH"] ?? "").split(":").map((folder) => join(folder, name))
      : [resolve(named)];
  const found = candidates.find(isExecutable);
  if (found !== undefined) return found;
  throw missing(
    named === undefined ? `there is no ${name} in PATH` : `${variable} names no program: ${named}`,
  );
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function missing(what: string): TorporError {
  return new TorporError("vmm.missing", what, {
    advice:
      "Install one release of Firecracker with its jailer; name them in FIRECRACKER_BIN and JAILER_BIN.",
  });
}
