import assert from "node:assert/strict";
import { test } from "node:test";
import { pageBytes } from "@torpor/storage";
import { failsWith } from "@torpor/testing";
import { countPages, decodeWorkingSet, encodeWorkingSet, workingSetOf } from "./working-set.ts";

const pageCount = 300;
const sizeBytes = pageCount * pageBytes;

function someSet(): Buffer {
  const touched = new Uint8Array(pageCount);
  for (const page of [0, 1, 2, 7, 64, 65, 299]) touched[page] = 1;
  return encodeWorkingSet(workingSetOf(touched));
}

test("decodeWorkingSet() gives back the pages that were touched, joined", () => {
  const set = decodeWorkingSet(someSet(), sizeBytes, "it");
  assert.equal(countPages(set), 7);
  assert.deepEqual(set.ranges, [
    { firstPage: 0, endPage: 3 },
    { firstPage: 7, endPage: 8 },
    { firstPage: 64, endPage: 66 },
    { firstPage: 299, endPage: 300 },
  ]);
  const empty = encodeWorkingSet(workingSetOf(new Uint8Array(pageCount)));
  assert.equal(countPages(decodeWorkingSet(empty, sizeBytes, "it")), 0);
});

test("decodeWorkingSet() refuses every change of a byte, and every end that comes early", () => {
  const whole = someSet();
  for (let at = 0; at < whole.length; at += 1) {
    const changed = Buffer.from(whole);
    changed[at] = (changed[at] ?? 0) ^ 0x10;
    // The version is checked first: a later one may have its checksum elsewhere.
    const code = at >= 8 && at < 12 ? "snapshot.incompatible" : "snapshot.corrupt";
    assert.throws(() => decodeWorkingSet(changed, sizeBytes, "it"), failsWith(code), `byte ${at}`);
    const cut = whole.subarray(0, at);
    assert.throws(() => decodeWorkingSet(cut, sizeBytes, "it"), failsWith("snapshot.corrupt"));
  }
});

test("decodeWorkingSet() refuses the record of a guest of another size", () => {
  const decode = (): unknown => decodeWorkingSet(someSet(), sizeBytes * 2, "it");
  assert.throws(decode, failsWith("snapshot.corrupt"));
});
