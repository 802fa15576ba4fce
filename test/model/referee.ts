/**
 * Judges turns by the model: every sandbox and snapshot must have come to one of the ends that the answers
 * of the operations allow. What is found is what the next turn begins with.
 */
import assert from "node:assert/strict";
import {
  type Content,
  type Happening,
  type ModelSandbox,
  type Named,
  died,
  outcomes,
  settled,
} from "./model.ts";
import { type Observer, templateContent } from "./observe.ts";
import type { Operation } from "./script.ts";
import type { Ongoing, Played } from "./turn.ts";

/** What a new sandbox begins with. */
interface Beginning {
  readonly content: Content;
  readonly snapshot: Content | null;
}

interface Step {
  readonly happening: Happening;
  /** Undefined for what nobody waits for. */
  readonly answer: Ongoing["answer"] | undefined;
}

export class Referee {
  readonly #observer: Observer;
  #sandboxes: ReadonlyMap<string, ModelSandbox> = new Map();
  #named: ReadonlyMap<string, Named> = new Map();

  constructor(observer: Observer) {
    this.#observer = observer;
  }

  get sandboxes(): ReadonlyMap<string, ModelSandbox> {
    return this.#sandboxes;
  }

  get named(): ReadonlyMap<string, Named> {
    return this.#named;
  }

  /** @throws AssertionError telling what was, what happened, what is, and what might be. */
  async judge(played: Played): Promise<void> {
    const seen = await this.#observer.sandboxes();
    const named = await this.#observer.named();
    for (const [id, before] of this.#sandboxes) {
      assertAllowed(id, before, seen.get(id) ?? null, played);
    }
    this.#assertMade(
      [...seen].filter(([id]) => !this.#sandboxes.has(id)),
      played,
    );
    this.#assertKept(named, played);
    this.#assertTaken(named, played);
    this.#sandboxes = seen;
    this.#named = named;
  }

  /** New sandboxes are those that were asked for, whole, and all that were promised. */
  #assertMade(fresh: readonly (readonly [string, ModelSandbox])[], played: Played): void {
    const makers = played.ongoing.filter(({ operation }) => countOf(operation) > 0);
    const promised = makers.flatMap(({ made }) => made);
    const ids = fresh.map(([id]) => id);
    for (const id of promised) assert.ok(ids.includes(id), `${id} was promised, and is not there`);
    const isCut = makers.some(({ answer }) => answer === "lost");
    if (!isCut) assert.deepEqual(ids.toSorted(), promised.toSorted(), "only what was asked for");
    const wanted = makers.reduce((sum, { operation }) => sum + countOf(operation), 0);
    assert.ok(ids.length <= wanted, "no more than was asked for");
    for (const one of makers) assertMadeOrExcused(one, played);
    const beginnings = makers.flatMap((one) => this.#beginningsOf(one, played));
    for (const [id, now] of fresh) {
      const isRight = beginnings.some((beginning) => {
        const begun = { state: "running", ...beginning, previous: null } as const;
        return isSame(begun, now) || (played.befell.has(id) && isSame(died(begun), now));
      });
      assert.ok(isRight, `new ${id} is ${show(now)}`);
    }
  }

  #beginningsOf({ operation, id, snapshotId }: Ongoing, played: Played): readonly Beginning[] {
    if (operation.verb !== "create") {
      return this.#instantsOf(id ?? "", played).map((content) => ({ content, snapshot: content }));
    }
    if (snapshotId === undefined) return [{ content: templateContent, snapshot: null }];
    const named = this.#named.get(snapshotId);
    return named === undefined ? [] : [{ content: named.content, snapshot: named.content }];
  }

  /** Every content that a snapshot of this sandbox may have that was taken in this turn. */
  #instantsOf(id: string, { befell }: Played): readonly Content[] {
    const before = this.#sandboxes.get(id);
    const written = befell.get(id)?.written ?? ((content: Content) => content);
    return [before?.content, before?.snapshot, before?.previous]
      .filter((content) => content !== null && content !== undefined)
      .flatMap((content) => [content, written(content)]);
  }

  /** Snapshots that nobody removed are there and as they were, but for a name that another took. */
  #assertKept(now: ReadonlyMap<string, Named>, { ongoing }: Played): void {
    for (const [id, before] of this.#named) {
      const removals = ongoing.filter(
        ({ operation, snapshotId }) => operation.verb === "remove snapshot" && snapshotId === id,
      );
      const found = now.get(id);
      const isRemoved = removals.some(({ answer }) => answer === "done");
      if (isRemoved) assert.equal(found, undefined, `snapshot ${id} is removed`);
      if (removals.length === 0) assert.ok(found !== undefined, `snapshot ${id} is there`);
      if (found === undefined) continue;
      assert.deepEqual(found.content, before.content, `snapshot ${id} is as it was`);
      const isTaken = ongoing.some(
        ({ operation }) => operation.verb === "snapshot" && operation.name === before.name,
      );
      if (!isTaken) assert.equal(found.name, before.name, `snapshot ${id} keeps its name`);
    }
  }

  /** As many new snapshots as were asked for, of the right instants. */
  #assertTaken(now: ReadonlyMap<string, Named>, played: Played): void {
    const takings = played.ongoing.filter(({ operation }) => operation.verb === "snapshot");
    const fresh = [...now].filter(([id]) => !this.#named.has(id));
    const promised = takings.filter(({ answer }) => answer === "done").length;
    const isCertain = takings.every(({ answer }) => /^(done|refused|failed: none)/.test(answer));
    if (isCertain) assert.equal(fresh.length, promised, "as many new snapshots as were promised");
    assert.ok(fresh.length >= promised, "all new snapshots that were promised");
    assert.ok(fresh.length <= takings.length, "no more new snapshots than were asked for");
    const contents = takings.flatMap(({ id }) => this.#instantsOf(id ?? "", played));
    for (const [id, { content }] of fresh) {
      const isRight = contents.some((one) => isSame(one, content));
      assert.ok(isRight, `new snapshot ${id} holds ${JSON.stringify(content)}`);
    }
  }
}

function assertAllowed(
  id: string,
  before: ModelSandbox,
  now: ModelSandbox | null,
  played: Played,
): void {
  const own = played.ongoing.filter((one) => one.id === id && one.operation.verb !== "write");
  const befell = played.befell.get(id);
  const steps: Step[] = own.flatMap(({ happening, answer }) =>
    happening === undefined ? [] : [{ happening, answer }],
  );
  if (befell !== undefined) steps.push({ happening: befell, answer: undefined });
  const isDying = own.some(({ operation }) => operation.verb === "VM dies");
  const wrong = played.wrong ?? (isDying ? "death" : undefined);
  const allowed = permutations(steps)
    .flatMap((order) => endsOf(before, order, wrong))
    .map((end) => afterwards(end, played));
  if (allowed.some((end) => isSame(end, now))) return;
  assert.fail(
    [
      `${id} was ${show(before)}`,
      ...own.map(({ operation, answer }) => `  ${JSON.stringify(operation)} -> ${answer}`),
      ...(befell === undefined ? [] : [`  befallen by ${befell.operation.verb}`]),
      `and is ${show(now)}`,
      `allowed are: ${[...new Set(allowed.map(show))].join("\n  ")}`,
    ].join("\n"),
  );
}

/** Where one order of operations may lead, by the answers that they gave. */
function endsOf(
  before: ModelSandbox,
  order: readonly Step[],
  wrong: Played["wrong"],
): readonly (ModelSandbox | null)[] {
  return order.reduce<readonly (ModelSandbox | null)[]>(
    (ends, { happening, answer }) =>
      ends.flatMap((end) =>
        outcomes(end, happening, wrong)
          .filter((one) => answer === undefined || one.answer === answer)
          .map(({ next }) => next),
      ),
    [before],
  );
}

function afterwards(end: ModelSandbox | null, { isReopened, wasOff }: Played): ModelSandbox | null {
  const rested = isReopened ? settled(end) : end;
  return wasOff && rested !== null ? died(rested) : rested;
}

/** Each new sandbox is made, unless there is a reason that it is not. */
function assertMadeOrExcused(
  { operation, answer, made, snapshotId }: Ongoing,
  { wrong }: Played,
): void {
  if (wrong !== undefined) return;
  if (answer === "done") assert.equal(made.length, countOf(operation), "every child is made");
  if (operation.verb !== "create" || answer === "done") return;
  const isGone = answer === "refused: template.missing" && snapshotId !== undefined;
  assert.ok(isGone, `create was ${answer}`);
}

/** How many new sandboxes it asks for. */
function countOf(operation: Operation): number {
  if (operation.verb === "create") return 1;
  return operation.verb === "fork" ? operation.count : 0;
}

function permutations<T>(items: readonly T[]): readonly (readonly T[])[] {
  if (items.length === 0) return [[]];
  return items.flatMap((item, index) =>
    permutations(items.toSpliced(index, 1)).map((rest) => [item, ...rest]),
  );
}

function isSame(one: Content | ModelSandbox | null, other: Content | ModelSandbox | null): boolean {
  return show(one) === show(other);
}

function show(what: Content | ModelSandbox | null): string {
  if (what === null) return "not there";
  if (!("state" in what)) return JSON.stringify(what);
  const { state, content, snapshot, previous } = what;
  // Of one that is being removed nothing counts any more.
  return JSON.stringify(state === "removing" ? { state } : { state, content, snapshot, previous });
}
