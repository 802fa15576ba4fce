/**
 * `torpor` on PATH: a link to the program of this checkout, in a folder for programs that no
 * package owns. The CLI never replaces or removes what belongs to others.
 */
import { existsSync } from "node:fs";
import { mkdir, readlink, rm, symlink } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { systemCode } from "@torpor/std";

const program = fileURLToPath(new URL("../bin/torpor.mjs", import.meta.url));
/** The end of the target of every link of ours, in whichever checkout it is. */
const programEnd = "/packages/cli/bin/torpor.mjs";

/** The state of the link after an attempt to make it. */
export type LauncherState =
  /** It leads to this checkout: it did before, or it was just made. */
  | { readonly kind: "there" | "made" }
  /** The path belongs to another program, or to a checkout that still exists. */
  | { readonly kind: "taken" }
  | { readonly kind: "impossible"; readonly why: string };

/** Where `torpor` is put on PATH: the machine's programs for root, the user's own otherwise. */
export function defaultLauncherPath(): string {
  const isRoot = process.getuid?.() === 0;
  return join(isRoot ? "/usr/local/bin" : join(homedir(), ".local/bin"), "torpor");
}

/** Makes the link, if the path is free or a removed checkout's. */
export async function makeLauncher(path: string): Promise<LauncherState> {
  try {
    await mkdir(dirname(path), { recursive: true });
    // A link of a checkout that was removed leads nowhere.
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

/** Removes the link. @returns false if no link there leads to this checkout. */
export async function removeLauncher(path: string): Promise<boolean> {
  if (!(await hasLauncher(path))) return false;
  await rm(path);
  return true;
}

/** Whether the link leads to this checkout. */
export async function hasLauncher(path: string): Promise<boolean> {
  return isOurs(path, (target) => target === program);
}

/** A note for the user about the link; undefined when none is needed. */
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
