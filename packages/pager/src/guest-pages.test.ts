/** The kernel's possible answers to an install, and what the pager does for each. */
import assert from "node:assert/strict";
import { constants } from "node:os";
import { test } from "node:test";
import type { FillResult } from "@torpor/native";
import { pageBytes } from "@torpor/storage";
import { failsWith } from "@torpor/testing";
import { GuestPages } from "./guest-pages.ts";
import { GuestRegions } from "./guest-regions.ts";
import type { PageSource } from "./page-source.ts";

const pageCount = 64;
const base = 2 ** 40;
const { EAGAIN, EEXIST, EFAULT, ENOENT, ENOMEM, ESRCH } = constants.errno;

/**
 * A kernel that gives the answers that the test prepared, and when none is left does what it is
 * asked.
 */
class ScriptedKernel {
  readonly answers: FillResult[] = [];
  readonly calls: string[] = [];

  copy(address: number, _source: number, lengthBytes: number): FillResult {
    return this.#fill("copy", address, lengthBytes);
  }

  zero(address: number, lengthBytes: number): FillResult {
    return this.#fill("zero", address, lengthBytes);
  }

  wake(address: number): void {
    this.calls.push(`wake ${(address - base) / pageBytes}`);
  }

  #fill(verb: string, address: number, lengthBytes: number): FillResult {
    this.calls.push(`${verb} ${(address - base) / pageBytes}+${lengthBytes / pageBytes}`);
    return this.answers.shift() ?? { doneBytes: lengthBytes, errno: undefined };
  }
}

/** A source in which every page has bytes. */
const source: PageSource = {
  pageCount,
  newestPages: [],
  pieceAt: (page, pagesMax) => ({ kind: "bytes", pageCount: pagesMax, address: page * pageBytes }),
  readAhead: () => undefined,
  mapAhead: () => undefined,
};

function setUp(...answers: readonly FillResult[]): { kernel: ScriptedKernel; pages: GuestPages } {
  const kernel = new ScriptedKernel();
  kernel.answers.push(...answers);
  const sizeBytes = pageCount * pageBytes;
  const region = { base_host_virt_addr: base, size: sizeBytes, offset: 0, page_size: pageBytes };
  const regions = GuestRegions.parse(JSON.stringify([region]), sizeBytes);
  return { kernel, pages: new GuestPages(kernel, regions, source) };
}

function refused(errno: number): FillResult {
  return { doneBytes: 0, errno };
}

const range = { firstPage: 8, endPage: 12 };

test("install() goes on where the kernel stopped short", () => {
  const { kernel, pages } = setUp({ doneBytes: 3 * pageBytes, errno: undefined });
  assert.equal(pages.install(range), "done");
  assert.deepEqual(kernel.calls, ["copy 8+4", "copy 11+1"]);
});

test("install() says that it is to be repeated, and then does the rest", () => {
  const { kernel, pages } = setUp({ doneBytes: pageBytes, errno: undefined }, refused(EAGAIN));
  assert.equal(pages.install(range), "again");
  assert.equal(pages.install(range), "done");
  assert.deepEqual(kernel.calls, ["copy 8+4", "copy 9+3", "copy 9+3"]);
  assert.equal(pages.counts.retries, 1);
});

test("install() takes a page that is there already for a success, and wakes who waits for it", () => {
  const { kernel, pages } = setUp(refused(EEXIST));
  assert.equal(pages.install(range), "done");
  assert.deepEqual(kernel.calls, ["copy 8+4", "wake 8", "copy 9+3"]);
});

test("install() lets who waits for a page that was unmapped find that out", () => {
  const { kernel, pages } = setUp(refused(ENOENT));
  assert.equal(pages.install({ firstPage: 8, endPage: 9 }), "done");
  assert.deepEqual(kernel.calls, ["copy 8+1", "wake 8"]);
});

test("install() says that the VM is gone, and fails on what must not be passed over", () => {
  assert.equal(setUp(refused(ESRCH)).pages.install(range), "gone");
  const unreadable = setUp(refused(EFAULT));
  assert.throws(() => unreadable.pages.install(range), failsWith("snapshot.corrupt"));
  const unforeseen = setUp(refused(ENOMEM));
  assert.throws(() => unforeseen.pages.install(range), failsWith("vmm.failed"));
});

test("installWanted() asks the kernel even for a page that was thought to be there", () => {
  const { kernel, pages } = setUp();
  pages.install(range);
  assert.equal(pages.install(range), "done");
  pages.installWanted(9, { firstPage: 9, endPage: 10 });
  assert.deepEqual(kernel.calls, ["copy 8+4", "copy 9+1"]);
});

test("install() gives zeros for what was given back, before and after it was touched again", () => {
  const { kernel, pages } = setUp();
  pages.remove(base + 9 * pageBytes, base + 11 * pageBytes);
  pages.install(range);
  pages.remove(base + 9 * pageBytes, base + 10 * pageBytes);
  pages.install(range);
  assert.deepEqual(kernel.calls, ["copy 8+1", "zero 9+2", "copy 11+1", "zero 9+1"]);
});
