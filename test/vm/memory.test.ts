/**
 * Every byte of a sandbox comes back. A program fills memory with bytes that cannot be guessed,
 * blanks some, and rewrites parts of a file; its checksums before and after each sleep are the same,
 * cycle after cycle, each on top of the one before. A snapshot holds what differs from the template
 * and no more: it grows with what is written, and shrinks again when memory is blanked.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Ledger, type TestSandbox, startTestDaemon } from "@torpor/testing";

const cycleCount = 8;
const bytesPerMiB = 1024 * 1024;
const heldMiB = 16;
/** The guest's other doings between two looks: page cache, logs, the agent's heap. */
const noiseMiB = 12;

/** Sleeps and wakes; returns how much the snapshot took on disk for memory. */
async function cycle(sandbox: TestSandbox): Promise<number> {
  await sandbox.pause();
  const { snapshot } = await sandbox.info();
  assert.ok(snapshot !== null);
  await sandbox.resume();
  return snapshot.memoryBytes / bytesPerMiB;
}

test("every byte of memory and disk comes back", async (t) => {
  await using daemon = await startTestDaemon();
  const sandbox = await daemon.create();
  const ledger = await Ledger.start(sandbox, heldMiB);
  const emptyMiB = await cycle(sandbox);

  await t.test(`${cycleCount} sleeps, with changes in between`, async () => {
    const digests = new Set<string>();
    for (let count = 0; count < cycleCount; count++) {
      digests.add(await ledger.change(sandbox));
      const savedMiB = await cycle(sandbox);
      await ledger.confirm(sandbox);
      const mostMiB = emptyMiB + heldMiB + noiseMiB;
      assert.ok(savedMiB <= mostMiB, `cycle ${count} took ${savedMiB} MiB of ${mostMiB} at most`);
    }
    assert.equal(digests.size, cycleCount, "each cycle changed something");
  });

  await t.test("a snapshot is as large as what was written", async () => {
    await ledger.change(sandbox, "fill");
    const fullMiB = await cycle(sandbox);
    await ledger.confirm(sandbox);

    const blank = await ledger.change(sandbox, "blank");
    assert.equal(
      blank.split(" ")[0],
      "080acf35a507ac9849cfcba47dc2ad83e01b75663a516279c8b9d243b719643e",
      "sixteen MiB of zeroes",
    );
    const blankedMiB = await cycle(sandbox);
    const shrunkMiB = fullMiB - blankedMiB;
    // It may shrink by more: the guest's kernel takes freed pages for the zeroes, too.
    assert.ok(shrunkMiB >= heldMiB - noiseMiB / 2, `it shrank by ${shrunkMiB} MiB`);
    await ledger.confirm(sandbox);
  });
});
