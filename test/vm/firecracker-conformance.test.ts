/**
 * The Firecracker driver does what every driver must do: on a fake Firecracker, over real files,
 * namespaces, TAP devices and disks; and on the real one where there is one and KVM works.
 */
import { mkdtempDisposable } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setUp, silentProgress } from "@torpor/setup";
import { TorporError } from "@torpor/std";
import { type Template, defaultCacheFolder } from "@torpor/storage";
import {
  fakeFirecrackerSkip,
  makeFakeFirecrackerRig,
  makePagedFirecrackerRig,
  testConformance,
} from "@torpor/testing";
import { FirecrackerDriver, defaultUserIds, openCgroups } from "@torpor/vmm";
import { makeGuestRig } from "./conformance-rig.ts";

/** LIMIT: the guest's generation, what tells the guest of it, and the rings of its devices. */
const pagesRenewedMax = 16;

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

test("the real Firecracker is driven as every VMM", async (t) => {
  if (process.env["FIRECRACKER_BIN"] === undefined) {
    return t.skip("not run: FIRECRACKER_BIN names no Firecracker");
  }
  await using undo = new AsyncDisposableStack();
  const template = await makeTemplate(undo);
  if (TorporError.is(template)) return t.skip(`not run: ${template.rawMessage}`);
  const confinement = { userIds: defaultUserIds, cgroups: openCgroups() };
  const driver = new FirecrackerDriver({ confinement });
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-conformance-"));
  await testConformance(t, makeGuestRig(driver, template, folder.path, pagesRenewedMax));
});

/** Or why there can be none here: without KVM nothing is run, and nothing has failed. */
async function makeTemplate(undo: AsyncDisposableStack): Promise<Template | TorporError> {
  const shared = { cacheFolder: defaultCacheFolder(), progress: silentProgress };
  try {
    // The other tests' sandboxes are made from whatever is named "base".
    undo.defer(async () => void (await setUp(shared)));
    return await setUp({ ...shared, vmmKind: "firecracker" });
  } catch (cause) {
    if (TorporError.is(cause) && cause.code === "vmm.missing") return cause;
    throw cause;
  }
}
