/** A template that was made again has the same id and other memory: nothing that was saved over the first wakes over it. */
import assert from "node:assert/strict";
import { rename } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { TorporError } from "@torpor/std";
import { templatesFolder } from "@torpor/storage";
import { makeFakeTemplate } from "@torpor/testing";
import type { Victims } from "./daemon-life.ts";
import { Observer, templateContent } from "./observe.ts";
import { type World, makeWorld, templateName } from "./world.ts";

const nobody: Victims = { scribble: () => false, killVm: () => false };
const request = { template: templateName, metadata: {}, envVars: {}, lifetime: {} };

const isReplaced = (error: unknown): boolean =>
  TorporError.is(error) &&
  error.code === "template.replaced" &&
  error.effect === "none" &&
  /cache folder/.test(error.advice);

interface Builds {
  /** Makes the template again. */
  replace(): Promise<void>;
  putBack(): Promise<void>;
}

async function buildsOf({ path, templates }: World): Promise<Builds> {
  const { templateId } = (await templates.open(templateName)).manifest;
  const folder = join(templatesFolder(path), templateId);
  return {
    replace: async () => {
      await rename(folder, `${folder}.first`);
      await makeFakeTemplate(templates, templateName, " of a second boot");
    },
    putBack: async () => {
      await rename(folder, `${folder}.second`);
      await rename(`${folder}.first`, folder);
    },
  };
}

test("what was saved over a template is refused over another build of it, and unchanged", async () => {
  await using world = await makeWorld(false);
  await world.start(nobody);
  const { sandboxes } = world;
  const { sandbox } = await sandboxes.create(request);
  const { id } = sandbox.record;
  const namedId = await sandboxes.takeSnapshot(id, "named");
  await sandbox.pause();
  await sandboxes.idle();
  const builds = await buildsOf(world);
  await builds.replace();
  const before = sandbox.record;
  await assert.rejects(sandbox.resume(), isReplaced);
  await assert.rejects(sandbox.resume({ previous: true }), isReplaced);
  const { children } = await sandboxes.fork(id, { count: 1, lifetime: {} });
  assert.ok(children.every((child) => child.status === "rejected" && isReplaced(child.reason)));
  await assert.rejects(sandboxes.create({ ...request, template: namedId }), isReplaced);
  assert.deepEqual(sandbox.record, before);
  assert.equal(before.state.kind, "paused");
  assert.deepEqual(world.machine.processes, []);
  // The new build is as good as any for a new sandbox.
  const fresh = (await sandboxes.create(request)).sandbox;
  await fresh.pause();
  await builds.putBack();
  await assert.rejects(fresh.resume(), isReplaced);
  await sandbox.resume();
  assert.deepEqual(await new Observer(world).snapshot(before.snapshotId ?? ""), templateContent);
  const made = await sandboxes.create({ ...request, template: namedId });
  assert.equal(made.sandbox.record.state.kind, "running");
});

test("a sandbox that runs is not saved over another build, and goes on", async () => {
  await using world = await makeWorld(false);
  await world.start(nobody);
  const { sandboxes } = world;
  const { id } = (await sandboxes.create(request)).sandbox.record;
  const builds = await buildsOf(world);
  await builds.replace();
  await assert.rejects(sandboxes.get(id).pause(), isReplaced);
  // The next daemon knows what the VM has mapped, too.
  await world.kill();
  await world.start(nobody);
  const adopted = world.sandboxes.get(id);
  await assert.rejects(adopted.pause(), isReplaced);
  await assert.rejects(world.sandboxes.takeSnapshot(id, null), isReplaced);
  assert.equal(adopted.record.state.kind, "running");
  await builds.putBack();
  await adopted.pause();
  await adopted.resume();
});

test("a snapshot that does not say what it was saved over wakes", async () => {
  await using world = await makeWorld(false);
  await world.start(nobody);
  const { sandbox } = await world.sandboxes.create(request);
  await sandbox.pause();
  const { record } = sandbox;
  await world.sandboxes.idle();
  await world.kill();
  const snapshotId = "a".repeat(20);
  const { templateSha256, ...manifest } = await world.store.read(record.snapshotId ?? "");
  assert.equal(templateSha256, await world.templates.contentOf(record.templateId));
  await world.store.copy(record.snapshotId ?? "", snapshotId);
  await using staged = await world.store.stage(`${snapshotId.slice(1)}b`);
  await rename(world.store.deviceStatePath(snapshotId), join(staged.path, "device.state"));
  await staged.publish({ ...manifest, snapshotId: `${snapshotId.slice(1)}b` });
  await world.records.save({ ...record, snapshotId: `${snapshotId.slice(1)}b` });
  await world.start(nobody);
  const woken = world.sandboxes.get(record.id);
  await woken.resume();
  assert.equal(woken.record.state.kind, "running");
});
