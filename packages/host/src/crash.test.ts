/** A process that crashes leaves facts in its log, whatever is wrong with it. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { type JsonObject, parseJson } from "@torpor/std";
import { crashExitCode } from "./crash.ts";

/**
 * Runs a program that crashes, and returns its log.
 * @param describe Source text of a function.
 */
async function crash(
  how: string,
  describe = "() => ({ sandboxes: { running: 2 } })",
): Promise<string> {
  const program = `
    import { jsonLogger } from "@torpor/std";
    import { reportCrashes } from ${JSON.stringify(new URL("crash.ts", import.meta.url).href)};
    reportCrashes(jsonLogger((line) => process.stderr.write(line)), ${describe});
    setInterval(() => undefined, 1_000_000);
    ${how}
  `;
  const child = spawn(process.execPath, ["--input-type=module", "-e", program], {
    stdio: ["ignore", "ignore", "pipe"],
    cwd: fileURLToPath(new URL(".", import.meta.url)),
  });
  let text = "";
  child.stderr.on("data", (chunk) => (text += String(chunk)));
  const [code] = (await once(child, "close")) as [number | null];
  assert.equal(code, crashExitCode, text);
  return text;
}

const error = 'new Error("a bug", { cause: new RangeError("below it") })';
const ways = {
  "an exception in a timer": `setTimeout(() => { throw ${error} });`,
  "an exception in an event": `process.nextTick(() => { throw ${error} });`,
  "a rejection that nobody handles": `void Promise.reject(${error});`,
};
for (const [title, how] of Object.entries(ways)) {
  test(`${title} ends the process with what is known of it`, async () => {
    const facts = parseJson(await crash(how), "line") as JsonObject;
    assert.equal(facts["message"], "the daemon crashed");
    assert.match(String(facts["stack"]), /a bug[^]*at [^]*caused by RangeError: below it/);
    assert.deepEqual(facts["sandboxes"], { running: 2 });
    assert.equal((facts["versions"] as JsonObject)["node"], process.version);
  });
}

test("facts that cannot be had are no reason to live on", async () => {
  const throws = "() => { throw new Error('no facts') }";
  assert.match(await crash(`setTimeout(() => { throw ${error} });`, throws), /a bug.*no facts/);
});
