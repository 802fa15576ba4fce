/**
 * `torpor` on PATH: a link to the program of this checkout, in a folder for programs that are not a
 * package's. Nothing of another's is ever replaced or removed.
 */
import { existsSync } from "node:fs";
import { mkdir, readlink, rm, symlink } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { systemCode } from "@torpor/std";

const program = fileURLToPath(new URL("../bin/torpor.mjs", import.meta.url));
/** How the target of a link of ours ends, whichever checkout it leads to. */
const programEnd = "/packages/cli/bin/torpor.mjs";

export type LauncherState =
  /** It leads to this checkout, or did not until now. */
  | { readonly kind: "there" | "made" }
  /** Something of another's, or of a checkout that is still there. */
  | { readonly kind: "taken" }
  | { readonly kind: "impossible"; readonly why: string };

export function defaultLauncherPath(): string {
  const isRoot = process.getuid?.() === 0;
  return join(isRoot ? "/usr/local/bin" : join(homedir(), ".local/bin"), "torpor");
}

export async function makeLauncher(path: string): Promise<LauncherState> {
  try {
    await mkdir(dirname(path), { recursive: true });
    // One of a checkout that was removed leads nowhere.
    if (await isOurs(path, (target) => !existsSync(target))) await rm(path);
    await symlink(program, path);
    return { kind: "made" };
  } catch (cause) {
    if (systemCode(cause) === "EEXIST") {
      return { kind: (await hasLauncher(path)) ? "there" : "taken" };
    }
    return { kind: "impossible", why: cause instanceof Error ? cause.message : String(cause) };
  }
}

/** @returns false where there is none that leads to this checkout. */
export async function removeLauncher(path: string): Promise<boolean> {
  if (!(await hasLauncher(path))) return false;
  await rm(path);
  return true;
}

export async function hasLauncher(path: string): Promise<boolean> {
  return isOurs(path, (target) => target === program);
}

/** What to say of it; undefined: nothing. */
export function launcherNote(
  path: string,
  state: LauncherState,
  env: NodeJS.ProcessEnv,
): string | undefined {
  if (state.kind === "there") return undefined;
  if (state.kind === "taken") {
    return `${path} is not of this checkout, and stays: write \`npx torpor\` here.`;
  }
  if (state.kind === "impossible") {
    return `\`torpor\` could not be put on PATH (${state.why}): write \`npx torpor\` here.`;
  }
  const isFound = (env["PATH"] ?? "").split(delimiter).includes(dirname(path));
  const hint = isFound ? "" : ` Add ${dirname(path)} to your PATH to use it.`;
  return `\`${basename(path)}\` is a command now: ${path} leads to this checkout.${hint}`;
}

async function isOurs(path: string, isMeant: (target: string) => boolean): Promise<boolean> {
  const target = await readlink(path).catch(() => undefined);
  return target?.endsWith(programEnd) === true && isMeant(target);
}
