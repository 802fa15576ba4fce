/**
 * What is really there: read from fake VMs, from files and from the database, and put in the model's
 * words. Anything that contradicts itself on the way is an assertion that fails.
 */
import assert from "node:assert/strict";
import { readFile, readdir } from "node:fs/promises";
import { join } from "node:path";
import type { Sandbox, SandboxRecord } from "@torpor/host";
import { parseJson } from "@torpor/std";
import { MemoryStack, type SnapshotManifest, stateFiles } from "@torpor/storage";
import { FakeDisk, FakeMemory, type FakeProcess, imageCluster, imagePage } from "@torpor/testing";
import type { Content, ModelSandbox, Named } from "./model.ts";
import { diskCells, memoryCells } from "./script.ts";
import { type World, templateName } from "./world.ts";

export const templateContent: Content = {
  memory: memoryCells.map(imagePage),
  disk: diskCells.map(imageCluster),
};

export class Observer {
  readonly #world: World;
  /** A published snapshot never changes, however many times it is folded. */
  readonly #known = new Map<string, Content>();

  constructor(world: World) {
    this.#world = world;
  }

  /** What has become of all sandboxes. */
  async sandboxes(): Promise<ReadonlyMap<string, ModelSandbox>> {
    const { sandboxes, records } = this.#world;
    const stored = new Map((await records.all()).map((record) => [record.id, record]));
    const seen = new Map<string, ModelSandbox>();
    for (const sandbox of sandboxes.all()) {
      const { id, state } = sandbox.record;
      const isForgotten = state.kind === "removing" && !stored.has(id);
      if (!isForgotten) {
        assert.deepEqual(plain(sandbox.record), stored.get(id), `${id} is stored as it is known`);
      }
      seen.set(id, await this.#sandbox(sandbox));
    }
    for (const id of stored.keys()) assert.ok(seen.has(id), `${id} is stored, and nobody knows it`);
    this.#assertOneVmEach();
    return seen;
  }

  /** What has become of the snapshots that a user asked for. */
  async named(): Promise<ReadonlyMap<string, Named>> {
    const { sandboxes, snapshotRecords } = this.#world;
    const known = sandboxes.snapshots.all();
    const ids = known.map(({ id, name }) => `${id} ${String(name)}`);
    const stored = (await snapshotRecords.all()).map(({ id, name }) => `${id} ${String(name)}`);
    assert.deepEqual(ids.toSorted(), stored.toSorted(), "snapshots are stored as they are known");
    const seen = new Map<string, Named>();
    for (const { id, name } of known) seen.set(id, { name, content: await this.snapshot(id) });
    return seen;
  }

  async snapshot(snapshotId: string): Promise<Content> {
    const known = this.#known.get(snapshotId);
    if (known !== undefined) return known;
    const manifest = await this.#world.store.read(snapshotId);
    const template = await this.#world.templates.open(templateName);
    const { memoryMiB } = template.manifest.machine;
    const memory = new FakeMemory(template.memoryPath, memoryMiB * 1024 * 1024);
    await this.#load(manifest, memory);
    const { store } = this.#world;
    const disk = new FakeDisk([
      { path: template.diskPath, format: "raw" },
      ...manifest.disk.map(({ layerId }) => ({
        path: store.diskPath(layerId),
        format: "qcow2" as const,
      })),
    ]);
    const content = contentOf(memory, disk);
    this.#known.set(snapshotId, content);
    return content;
  }

  /** Fails unless all that is needed is there; and, if asked, nothing else is. */
  async files(namedIds: readonly string[], nothingElse: boolean): Promise<void> {
    const { store, path, records } = this.#world;
    const snapshots = new Set(namedIds);
    const disks = new Set<string>();
    const all = await records.all();
    for (const record of all) {
      if (record.state.kind === "removing") continue; // it needs nothing any more
      for (const id of [record.snapshotId, record.previousSnapshotId]) {
        if (id !== null) snapshots.add(id);
      }
      const openDisks = "openDisks" in record.state ? record.state.openDisks : [];
      for (const id of [...record.diskLayers, ...openDisks]) disks.add(id);
    }
    // Of a snapshot that only a memory layer is needed of, nothing else needs to be there.
    for (const id of [...snapshots]) {
      const { memory, disk } = await store.read(id);
      for (const { layerId } of disk) disks.add(layerId);
      if (memory.kind === "layers") for (const one of memory.layers) snapshots.add(one.snapshotId);
    }
    compare("snapshots", await readdir(join(path, stateFiles.snapshots)), snapshots, nothingElse);
    const diskFiles = [...disks].map((id) => `${id}.qcow2`);
    compare("disks", await readdir(join(path, stateFiles.disks)), diskFiles, nothingElse);
    if (!nothingElse) return;
    const folders = await readdir(join(path, stateFiles.sandboxes));
    compare(
      "sandboxes",
      folders,
      all.map(({ id }) => id),
      nothingElse,
    );
  }

  async #sandbox(sandbox: Sandbox): Promise<ModelSandbox> {
    const { record } = sandbox;
    const kind = record.state.kind;
    if (kind === "removing") return { state: kind, content: null, snapshot: null, previous: null };
    assert.ok(kind === "running" || kind === "paused" || kind === "failed", `${kind} rests`);
    assert.equal(sandbox.run !== undefined, kind === "running", `a run of one that is ${kind}`);
    if (kind === "paused") await assertNoRuns(sandbox);
    return {
      state: kind,
      content: this.#running(record),
      snapshot: record.snapshotId === null ? null : await this.snapshot(record.snapshotId),
      previous:
        record.previousSnapshotId === null ? null : await this.snapshot(record.previousSnapshotId),
    };
  }

  #running({ id, state, generation, hostKey, accessToken }: SandboxRecord): Content | null {
    if (state.kind !== "running") return null;
    const process = this.#world.machine.find(state.vm);
    assert.ok(process.isAwake, `user processes of ${id} run`);
    const { mind } = process.guest;
    assert.deepEqual(
      {
        id: mind.sandboxId,
        generation: mind.generation,
        key: mind.hostKey,
        token: mind.accessToken,
      },
      { id, generation, key: hostKey, token: accessToken },
      `the guest of ${id} knows who it is`,
    );
    const known = state.openDisks.map((layer) => this.#world.store.diskPath(layer));
    const unknown = process.disk.paths.slice(1).filter((path) => !known.includes(path));
    assert.deepEqual(unknown, [], `the record of ${id} names what its VM has open`);
    return contentOf(process.memory, process.disk);
  }

  #assertOneVmEach(): void {
    const { sandboxes, machine } = this.#world;
    const isLeaving = (id: string): boolean =>
      sandboxes.all().some(({ record }) => record.id === id && record.state.kind === "removing");
    const alive = machine.processes.filter(({ spec }) => !isLeaving(spec.name));
    const recorded = sandboxes
      .all()
      .flatMap(({ record: { state } }) => (state.kind === "running" ? [state.vm.pid] : []));
    assert.deepEqual(
      alive.map(({ handle }) => handle.pid),
      recorded.toSorted(byNumber),
      "VMs",
    );
  }

  async #load({ snapshotId, memory }: SnapshotManifest, into: FakeMemory): Promise<void> {
    const { store } = this.#world;
    if (memory.kind === "whole") {
      const text = await readFile(store.deviceStatePath(snapshotId), "utf8");
      const state = parseJson(text, "state") as { readonly memory: string };
      into.writeAt(0, Buffer.from(state.memory, "base64"));
      return;
    }
    await using stack = await MemoryStack.open(store.stacked(memory.layers), into.sizeBytes);
    await stack.applyTo(into);
  }
}

/** The VM of a sandbox, if one is alive. */
export function vmOf({ machine }: World, sandboxId: string): FakeProcess | undefined {
  return machine.processes.findLast(({ spec }) => spec.name === sandboxId);
}

function contentOf(memory: FakeMemory, disk: FakeDisk): Content {
  const cells = new Set(memoryCells);
  for (let page = 1; page < memory.sizeBytes / 4096; page += 1) {
    if (cells.has(page)) continue;
    assert.equal(memory.readPage(page), imagePage(page), `page ${page}, which nobody writes`);
  }
  return {
    memory: memoryCells.map((page) => memory.readPage(page)),
    disk: diskCells.map((cluster) => disk.read(cluster)),
  };
}

async function assertNoRuns({ folder, record }: Sandbox): Promise<void> {
  const runs = await readdir(folder.runs).catch(() => []);
  assert.deepEqual(runs, [], `${record.id} is paused and has no run`);
}

function compare(
  what: string,
  found: readonly string[],
  needed: Iterable<string>,
  nothingElse: boolean,
): void {
  const wanted = new Set(needed);
  const missing = [...wanted].filter((name) => !found.includes(name));
  assert.deepEqual(missing, [], `${what}: what is needed is there`);
  if (!nothingElse) return;
  assert.deepEqual([...found].sort(), [...wanted].sort(), `${what}: nothing else is there`);
}

/** As the database would give it back. */
function plain(record: SandboxRecord): unknown {
  return JSON.parse(JSON.stringify(record));
}

function byNumber(one: number, other: number): number {
  return one - other;
}
