/**
 * What must come of operations: the sandbox lifecycle as a user is promised it, in a few rules.
 *
 * A model sandbox knows what is in its memory and on its disk now, at its last snapshot and at the one
 * before. Nothing here knows of layers, files, steps or records. Where something goes wrong, or several
 * things are asked for at once, more than one end is allowed; `outcomes` lists them all.
 */
import { assertNever } from "@torpor/std";
import type { Mishap, Targeted } from "./script.ts";

/** What each cell holds. */
export interface Content {
  readonly memory: readonly string[];
  readonly disk: readonly string[];
}

export interface ModelSandbox {
  readonly state: "running" | "paused" | "failed" | "removing";
  /** Null unless it runs. */
  readonly content: Content | null;
  readonly snapshot: Content | null;
  readonly previous: Content | null;
}

/** A snapshot that a user asked for. */
export interface Named {
  readonly name: string | null;
  readonly content: Content;
}

/** What an operation was told: done, refused with a code, failed with an effect, or nothing at all. */
export type Answer =
  "done" | `refused: ${string}` | `failed: ${"none" | "maybe" | "done"}` | "lost";

export interface Outcome {
  readonly answer: Answer;
  /** Null: not there. */
  readonly next: ModelSandbox | null;
}

/** An operation that one sandbox goes through, and what it will have written. */
export interface Happening {
  readonly operation: Targeted;
  /** What the guest writes, if it does. */
  readonly written: (content: Content) => Content;
  readonly onTimeout: "kill" | "pause";
  /** Whether something else in its turn may have begun a new epoch before it. */
  readonly mayBeLate: boolean;
}

const notAllowed = "refused: sandbox.wrongState";

/** What comes of it when nothing goes wrong. */
function ideal(sandbox: ModelSandbox | null, happening: Happening): Outcome {
  const { operation, written } = happening;
  if (sandbox === null) return notThere(happening);
  const isStale = "epoch" in operation && operation.epoch === "stale";
  if (isStale) return { answer: "refused: sandbox.stale", next: sandbox };
  switch (operation.verb) {
    case "pause":
      return paused(sandbox);
    case "resume":
      return resumed(sandbox);
    case "resume previous":
      return resumedFromPrevious(sandbox);
    case "fork":
    case "snapshot":
      return checkpointed(sandbox);
    case "remove":
      return { answer: "done", next: null };
    case "expire":
      if (sandbox.state !== "running") return { answer: "done", next: sandbox };
      return happening.onTimeout === "kill" ? { answer: "done", next: null } : paused(sandbox);
    case "set timeout":
      return { answer: "done", next: sandbox };
    case "write":
      if (sandbox.content === null) return { answer: "done", next: sandbox };
      return { answer: "done", next: { ...sandbox, content: written(sandbox.content) } };
    case "VM dies":
      return { answer: "done", next: died(sandbox) };
    default:
      return assertNever(operation);
  }
}

/** Everything that may come of it when one thing goes wrong at an unknown moment. */
export function outcomes(
  sandbox: ModelSandbox | null,
  happening: Happening,
  mishap: Mishap["kind"] | undefined,
): readonly Outcome[] {
  const good = ideal(sandbox, happening);
  const { operation, mayBeLate } = happening;
  const { verb } = operation;
  const isDated = "epoch" in operation && operation.epoch === "right";
  const late: Outcome[] = [];
  // A removal that failed may have left a VM whose time then ends it.
  if (verb === "expire" && sandbox?.state === "removing") late.push({ answer: "done", next: null });
  if (mayBeLate && sandbox !== null) {
    if (isDated) late.push({ answer: "refused: sandbox.stale", next: sandbox });
    // A resume that came between has given it all the time there is.
    if (verb === "expire") late.push({ answer: "done", next: sandbox });
  }
  if (mishap === undefined || sandbox === null || verb === "VM dies" || verb === "write") {
    return [good, ...late];
  }
  const { next } = good;
  const ends: Outcome[] = [
    good,
    ...late,
    { answer: "failed: none", next: sandbox },
    { answer: "failed: maybe", next: sandbox },
    { answer: "failed: maybe", next },
    { answer: "failed: done", next },
    { answer: "lost", next: sandbox },
    { answer: "lost", next },
  ];
  if (next === null) {
    // A removal that has begun can only be gone on with.
    const removing: ModelSandbox = { ...sandbox, state: "removing", content: null };
    ends.push({ answer: "failed: maybe", next: removing }, { answer: "lost", next: removing });
  }
  if (sandbox.state === "failed" && next?.state === "running") {
    // A daemon that finds a resume half done no longer knows why it had been needed.
    ends.push({ answer: "lost", next: { ...sandbox, state: "paused" } });
  }
  // Nobody is told how it went, but for the setting of the time.
  if (verb === "expire") {
    const answers = ["done", "lost", "failed: maybe"] as const;
    return ends.flatMap((end) => answers.map((answer) => ({ answer, next: end.next })));
  }
  return ends;
}

/** The VM is no more. */
export function died(sandbox: ModelSandbox): ModelSandbox {
  return sandbox.state === "running" ? { ...sandbox, state: "failed", content: null } : sandbox;
}

/** What a new daemon makes of it. */
export function settled(sandbox: ModelSandbox | null): ModelSandbox | null {
  return sandbox?.state === "removing" ? null : sandbox;
}

/** The repeat of a removal that was under way when it came has nothing left to do. */
function notThere({ operation, mayBeLate }: Happening): Outcome {
  const isRepeat = operation.verb === "remove" && mayBeLate;
  return { answer: isRepeat ? "done" : "refused: sandbox.notFound", next: null };
}

function paused(sandbox: ModelSandbox): Outcome {
  if (sandbox.state === "paused") return { answer: "done", next: sandbox };
  if (sandbox.state !== "running") return { answer: notAllowed, next: sandbox };
  const { content, snapshot } = sandbox;
  const next = { state: "paused", content: null, snapshot: content, previous: snapshot } as const;
  return { answer: "done", next };
}

function resumed(sandbox: ModelSandbox): Outcome {
  const { state, snapshot } = sandbox;
  if (state === "running") return { answer: "done", next: sandbox };
  if (state === "removing" || snapshot === null) return { answer: notAllowed, next: sandbox };
  return { answer: "done", next: { ...sandbox, state: "running", content: snapshot } };
}

function resumedFromPrevious(sandbox: ModelSandbox): Outcome {
  const { state, snapshot, previous } = sandbox;
  if (state === "running") return { answer: notAllowed, next: sandbox };
  if (state === "removing" || snapshot === null || previous === null) {
    return { answer: notAllowed, next: sandbox };
  }
  const next = { state: "running", content: previous, snapshot: previous, previous: null } as const;
  return { answer: "done", next };
}

function checkpointed(sandbox: ModelSandbox): Outcome {
  const { state, content, snapshot } = sandbox;
  if (state === "paused") return { answer: "done", next: sandbox };
  if (state !== "running") return { answer: notAllowed, next: sandbox };
  return { answer: "done", next: { ...sandbox, snapshot: content, previous: snapshot } };
}
