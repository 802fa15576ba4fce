/**
 * Finds what an unknown name probably means: the name of another kind of thing, or a slip.
 *
 * The search only runs once something was not found, so that it slows no successful command.
 */
import { TorporError, ignoreFailure, nearestName } from "@torpor/std";
import type { SandboxInfo } from "./daemon-answers.ts";
import type { DaemonClient } from "./daemon-client.ts";

const listSnapshots = "`torpor snapshot ls` lists the snapshots; `base` is the template.";

interface KnownNames {
  readonly sandboxes: readonly SandboxInfo[];
  /** Names, and the ids of those without one. */
  readonly snapshots: readonly string[];
  readonly templates: readonly string[];
}

/** For a verb that needs a sandbox. @returns the error to throw */
export async function unknownSandbox(daemon: DaemonClient, wanted: string): Promise<TorporError> {
  const { sandboxes, snapshots, templates } = await loadNames(daemon);
  const kind = [
    ["a snapshot", snapshots],
    ["a template", templates],
  ].find(([, names]) => names?.includes(wanted) === true)?.[0];
  if (typeof kind === "string") {
    return new TorporError("sandbox.notFound", `${wanted} is ${kind} and no sandbox`, {
      advice: `\`torpor create --template ${wanted}\` makes a sandbox of it.`,
    });
  }
  const ids = sandboxes.map(({ id }) => id);
  const nearest = nearestId(wanted, ids);
  return new TorporError("sandbox.notFound", `no sandbox has the id ${wanted}`, {
    advice: nearest === undefined ? "List them with `torpor ls`." : `Did you mean ${nearest}?`,
  });
}

/** For a verb that makes sandboxes of a template or a snapshot. @returns the error to throw */
export async function unknownTemplate(
  daemon: DaemonClient,
  wanted: string,
  cause: TorporError,
): Promise<TorporError> {
  const names = await loadNames(daemon);
  return explained(wanted, cause, names, [...names.templates, ...names.snapshots]);
}

/** For a verb that needs a snapshot. @returns the error to throw */
export async function unknownSnapshot(
  daemon: DaemonClient,
  wanted: string,
  cause: TorporError,
): Promise<TorporError> {
  const names = await loadNames(daemon);
  if (!names.templates.includes(wanted)) return explained(wanted, cause, names, names.snapshots);
  return new TorporError("template.missing", `${wanted} is a template and no snapshot`, {
    cause,
    advice: listSnapshots,
  });
}

function explained(
  wanted: string,
  cause: TorporError,
  { sandboxes, templates }: KnownNames,
  candidates: readonly string[],
): TorporError {
  const sandbox = sandboxes.find(({ id }) => id === wanted);
  if (sandbox !== undefined) {
    return new TorporError("template.missing", `${wanted} is a sandbox and no snapshot`, {
      cause,
      advice: `\`torpor snapshot ${wanted} NAME\` takes one of it.`,
    });
  }
  // Without any template this machine is not set up, which the daemon's error says better.
  if (templates.length === 0) return cause;
  const nearest = nearestName(wanted, candidates);
  return new TorporError(cause.code, cause.rawMessage, {
    cause,
    effect: cause.effect,
    advice: nearest === undefined ? listSnapshots : `Did you mean ${nearest}?`,
  });
}

/** A mistyped beginning of an id is compared with as many characters of each id. */
function nearestId(wanted: string, ids: readonly string[]): string | undefined {
  const beginning = nearestName(
    wanted,
    ids.map((id) => id.slice(0, wanted.length)),
  );
  return beginning === undefined ? undefined : ids.find((id) => id.startsWith(beginning));
}

async function loadNames(daemon: DaemonClient): Promise<KnownNames> {
  const names = { sandboxes: [], snapshots: [], templates: [] } as {
    -readonly [K in keyof KnownNames]: KnownNames[K];
  };
  const load = async (): Promise<void> => {
    names.sandboxes = await daemon.list();
    names.snapshots = (await daemon.snapshots()).map(({ id, name }) => name ?? id);
    names.templates = (await daemon.describe()).templates;
  };
  await ignoreFailure("the answer is the same with fewer names, only less helpful", load());
  return names;
}
