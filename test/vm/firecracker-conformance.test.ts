/**
 * The Firecracker driver does what every driver must do: on a fake Firecracker, over real files,
 * namespaces, TAP devices and disks; and on the real one where there is one and KVM works.
 */
import { mkdtempDisposable } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import {
  fakeFirecrackerSkip,
  makeFakeFirecrackerRig,
  makePagedFirecrackerRig,
  testConformance,
} from "@torpor/testing";
import { makeRealFirecrackerRig, realFirecrackerSkip } from "./small-guest.ts";

test("a fake Firecracker is driven as every VMM", { skip: fakeFirecrackerSkip }, async (t) => {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-conformance-"));
  await testConformance(t, await makeFakeFirecrackerRig(folder.path));
});

test(
  "a fake Firecracker with a pager is driven as every VMM",
  { skip: fakeFirecrackerSkip },
  async (t) => {
    await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-conformance-"));
    await testConformance(t, await makePagedFirecrackerRig(folder.path));
  },
);

test("the real Firecracker is driven as every VMM", { skip: realFirecrackerSkip }, async (t) => {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-conformance-"));
  await testConformance(t, await makeRealFirecrackerRig(folder.path));
});
