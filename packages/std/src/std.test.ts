import assert from "node:assert/strict";
import { mkdtempDisposable, readFile, readdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { runCommand } from "./command.ts";
import { Deadline } from "./deadline.ts";
import { writeFileDurably } from "./durable.ts";
import { type ErrorCode, TorporError, errorTable } from "./errors.ts";
import {
  optional,
  parseInteger,
  parseJson,
  parseString,
  parseStringMap,
  shownValue,
} from "./parse.ts";
import { type Step, runSteps } from "./steps.ts";

function fails(code: ErrorCode): (error: unknown) => boolean {
  return (error) => TorporError.is(error) && error.code === code;
}

/** Three steps that note what they do; the one named in `broken` fails after acquiring its undo. */
function notingSteps(notes: string[], broken?: string, commit?: string): Step<null>[] {
  return ["one", "two", "three"].map((name) => ({
    name,
    budgetMs: 60_000,
    commit: name === commit,
    run: async (_context, _deadline, undo) => {
      undo.defer(() => void notes.push(`undo ${name}`));
      notes.push(name);
      if (name === broken) throw new TorporError("vmm.failed", "broken");
      await Promise.resolve();
    },
  }));
}

test("runSteps() undoes nothing when all steps succeed", async () => {
  const notes: string[] = [];
  const timings = await runSteps(notingSteps(notes), null, { verb: "try" });
  assert.deepEqual(notes, ["one", "two", "three"]);
  assert.deepEqual(
    timings.map(({ step }) => step),
    notes,
  );
});

test("runSteps() undoes newest first when a step fails, and says that nothing took effect", async () => {
  const notes: string[] = [];
  await assert.rejects(runSteps(notingSteps(notes, "two"), null, { verb: "try" }), (error) => {
    assert.ok(TorporError.is(error));
    assert.equal(error.code, "vmm.failed");
    assert.equal(error.effect, "none");
    assert.match(error.message, /try failed at "two": broken/);
    return true;
  });
  assert.deepEqual(notes, ["one", "two", "undo two", "undo one"]);
});

test("runSteps() undoes nothing after the point of no return, and says so", async () => {
  const notes: string[] = [];
  const steps = notingSteps(notes, "three", "two");
  await assert.rejects(
    runSteps(steps, null, { verb: "try" }),
    (error) => TorporError.is(error) && error.effect === "done",
  );
  assert.deepEqual(notes, ["one", "two", "three"]);
});

test("runSteps() reports an undo that failed too", async () => {
  const steps: Step<null>[] = [
    {
      name: "only",
      budgetMs: 60_000,
      run: async (_context, _deadline, undo) => {
        undo.defer(() => {
          throw new Error("stuck");
        });
        await Promise.reject(new Error("broken"));
      },
    },
  ];
  await assert.rejects(
    runSteps(steps, null, { verb: "try" }),
    (error) => TorporError.is(error) && error.effect === "maybe" && /undoing/.test(error.message),
  );
});

test("runSteps() shows every step to the failpoint, before and after", async () => {
  const seen: string[] = [];
  await runSteps(notingSteps([]), null, {
    verb: "try",
    failpoint: (step, moment) => void seen.push(`${moment} ${step}`),
  });
  assert.deepEqual(seen.slice(0, 3), ["before one", "after one", "before two"]);
});

test("runSteps() runs a step once more when the failpoint asks for it", async () => {
  const notes: string[] = [];
  const timings = await runSteps(notingSteps(notes), null, {
    verb: "try",
    failpoint: (step, moment) => (step === "two" && moment === "after" ? "repeat" : undefined),
  });
  assert.deepEqual(notes, ["one", "two", "two", "three"]);
  assert.equal(timings.length, 3);
});

test("runSteps() undoes both runs of a step whose repeat failed", async () => {
  const notes: string[] = [];
  const steps = notingSteps(notes);
  const once: Step<null> = {
    name: "once",
    budgetMs: 60_000,
    run: async (_context, _deadline, undo) => {
      undo.defer(() => void notes.push("undo once"));
      if (notes.includes("once")) throw new TorporError("storage.failed", "it is there already");
      notes.push("once");
      await Promise.resolve();
    },
  };
  await assert.rejects(
    runSteps([...steps, once], null, {
      verb: "try",
      failpoint: (step, moment) => (step === "once" && moment === "after" ? "repeat" : undefined),
    }),
    (error) => TorporError.is(error) && error.effect === "none",
  );
  assert.deepEqual(notes.slice(4), [
    "undo once",
    "undo once",
    "undo three",
    "undo two",
    "undo one",
  ]);
});

test("an error crosses a process boundary with its code, effect and advice", () => {
  for (const code of Object.keys(errorTable) as ErrorCode[]) {
    const sent = new TorporError(code, "what happened", { effect: "maybe" });
    const received = TorporError.fromBody(sent.toBody());
    assert.equal(received.code, code);
    assert.equal(received.effect, "maybe");
    assert.equal(received.advice, sent.advice);
    assert.ok(sent.advice.endsWith("."), `${code} has no advice`);
  }
  assert.equal(TorporError.fromBody({ message: "x" }).code, "internal");
});

test("a full disk is named as one wherever it is met", () => {
  const cause = Object.assign(new Error("ENOSPC: no space"), { code: "ENOSPC" });
  assert.equal(TorporError.from(cause, "storage.failed").code, "storage.noSpace");
});

test("a deadline's part is never later than the whole", async () => {
  const whole = Deadline.after(0, "whole");
  assert.equal(whole.sub(60_000, "part").remainingMs(), 0);
  await assert.rejects(whole.race(new Promise(() => undefined)), fails("deadline.exceeded"));
  assert.equal(await Deadline.after(60_000, "whole").race(Promise.resolve("done")), "done");
});

test("runCommand() tells a missing program, a failing one and a slow one apart", async () => {
  const deadline = Deadline.after(60_000, "test");
  await assert.rejects(runCommand(["/nonexistent/tool"], deadline), fails("command.notFound"));
  await assert.rejects(
    runCommand(["sh", "-c", "echo why >&2; exit 3"], deadline),
    (error) => TorporError.is(error) && /exit 3: why/.test(error.message),
  );
  await assert.rejects(
    runCommand(["sleep", "600"], Deadline.after(1, "sleeping")),
    fails("deadline.exceeded"),
  );
  const { stdout } = await runCommand(["cat"], deadline, { input: "given" });
  assert.equal(stdout, "given");
});

test("writeFileDurably() replaces the content and leaves no staged file", async () => {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-durable-"));
  const path = join(folder.path, "file");
  await writeFileDurably(path, "old");
  await writeFileDurably(path, "new");
  assert.equal(await readFile(path, "utf8"), "new");
  assert.deepEqual(await readdir(folder.path), ["file"]);
});

test("parsers name the field they refuse", () => {
  assert.throws(() => parseInteger(1.5, "count", 0, 9), /count must be a whole number/);
  assert.throws(() => parseInteger(10, "count", 0, 9), /count must be from 0 to 9/);
  assert.throws(() => parseString(1, "name"), /name must be a string/);
  assert.throws(() => parseStringMap({ a: 1 }, "env"), /env\.a must be a string/);
  assert.equal(optional(null, parseString, "name"), undefined);
});

test("parseJson() refuses what is nested too deeply, and counts no bracket in a string", () => {
  const nested = (levels: number): string =>
    `${'[{"a":'.repeat(levels / 2)}1${"}]".repeat(levels / 2)}`;
  assert.doesNotThrow(() => parseJson(nested(200), "it"));
  assert.throws(() => parseJson(nested(202), "it"), /it has more than 200 levels/);
  assert.throws(() => parseJson("[".repeat(1_000_000), "it"), fails("argument.invalid"));
  const text = `\\"${"[".repeat(1_000)}`;
  assert.equal(parseJson(JSON.stringify(text), "it"), text);
  assert.deepEqual(parseJson(`[${"[],".repeat(1_000)}0]`, "it"), [...Array<[]>(1_000).fill([]), 0]);
});

test("shownValue() writes a value that would not become a string by itself", () => {
  assert.equal(shownValue("text"), "text");
  assert.equal(shownValue({ toString: 1 }), '{"toString":1}');
  assert.equal(shownValue(undefined), "nothing");
});

test("fromBody() takes what another process sent for what it may be", () => {
  const hostile = { error_code: "__proto__", message: { toString: 1 }, effect: "all", advice: 5 };
  const error = TorporError.fromBody(hostile);
  assert.equal(error.code, "internal");
  assert.equal(error.rawMessage, "no message");
  for (const none of [null, 5, "text"]) assert.equal(TorporError.fromBody(none).code, "internal");
  const whole = new TorporError("sandbox.notFound", "gone", { effect: "none", advice: "look" });
  assert.deepEqual(TorporError.fromBody(whole.toBody()), whole);
});
