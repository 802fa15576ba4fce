/**
 * The world that a script is played in: a state folder, a machine of fake VMs, and one daemon after the
 * other over both. The daemons are the real host code, from `Sandboxes` down to the files.
 */
import { webcrypto } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import {
  type Database,
  Freshness,
  type HostContext,
  Pagers,
  SandboxRecords,
  Sandboxes,
  SnapshotLayers,
  SnapshotRecords,
  TemplateTags,
  WakeQueue,
  WorkingSets,
  openDatabase,
} from "@torpor/host";
import { hostOutside } from "@torpor/network";
import { silentLogger } from "@torpor/std";
import {
  KeyFile,
  Sealer,
  SnapshotStore,
  type StagedSnapshot,
  TemplateStore,
  keyFileName,
  stateFiles,
  templatesFolder,
} from "@torpor/storage";
import { FakeDriver, FakeMachine, type Gate, makeFakeTemplate } from "@torpor/testing";
import { DaemonLife, type Victims, gated } from "./daemon-life.ts";
import type { Mishap } from "./script.ts";

export const templateName = "fake";
/** Files are flushed all the time here, which costs nothing where they are in memory. */
const fastFolder = "/dev/shm";
/** Few, so that some wait; a mishap's wake may never end. */
const wakeLimits = { atOnce: 2, turnMsMax: 1_000, waitMsMax: 45_000 };
/** How often in a row nothing must have been under way; not how long: a busy machine may look once only. */
const quietLooks = 8;
/** Checksums that are being computed, which Node does not list among what is under way. */
let digesting = 0;
const { subtle } = webcrypto;
const digest = subtle.digest.bind(subtle);
subtle.digest = async (...parts) => {
  digesting += 1;
  try {
    return await digest(...parts);
  } finally {
    digesting -= 1;
  }
};

export interface World extends AsyncDisposable {
  readonly path: string;
  readonly machine: FakeMachine;
  readonly templates: TemplateStore;
  /** Of nobody's: for looking at what is there. */
  readonly store: SnapshotStore;
  readonly records: SandboxRecords;
  readonly snapshotRecords: SnapshotRecords;
  readonly sandboxes: Sandboxes;
  readonly life: DaemonLife;
  /** A new daemon, over what the last one left. It may die before it serves. */
  start(victims: Victims, mishap?: Mishap): Promise<void>;
  /** As SIGTERM does. */
  stop(): Promise<void>;
  /** As SIGKILL does; or what is left to do once it died by itself. */
  kill(): Promise<void>;
}

export async function makeWorld(saveWhole: boolean): Promise<World> {
  await using undo = new AsyncDisposableStack();
  const path = await makeFolder();
  undo.defer(async () => await rm(path, { recursive: true, force: true }));
  const machine = new FakeMachine();
  undo.defer(() => machine.processes.forEach((process) => machine.end(process)));
  const templates = new TemplateStore(templatesFolder(path));
  await makeFakeTemplate(templates, templateName);
  const sealer = new Sealer(KeyFile.open(join(path, keyFileName), silentLogger));
  const sealing = { sealer, stateFolder: path };
  const database = await openDatabase(join(path, stateFiles.database), sealing);
  undo.defer(async () => await database.destroy());
  const store = await SnapshotStore.open(path, sealer, new SnapshotLayers(database));
  const lives: { life: DaemonLife; database: Database }[] = [];
  undo.defer(async () => {
    for (const { life } of lives) life.bury();
    await untilQuiet();
    for (const one of lives) await one.database.destroy();
  });
  let sandboxes: Sandboxes | undefined;
  const owned = undo.move();
  const current = (): DaemonLife => {
    const life = lives.at(-1)?.life;
    if (life === undefined) throw new TypeError("no daemon was started");
    return life;
  };
  return {
    path,
    machine,
    templates,
    store,
    records: new SandboxRecords(database, sealer),
    snapshotRecords: new SnapshotRecords(database),
    get sandboxes() {
      if (sandboxes === undefined) throw new TypeError("no daemon serves");
      return sandboxes;
    },
    get life() {
      return current();
    },
    start: async (victims, mishap) => {
      const life = new DaemonLife(victims);
      const own = await openDatabase(join(path, stateFiles.database), sealing);
      lives.push({ life, database: own });
      const host = await makeHost({
        path,
        machine,
        templates,
        database: own,
        sealer,
        life,
        saveWhole,
      });
      life.arm(mishap);
      const opened = Sandboxes.open(host);
      sandboxes = undefined;
      await Promise.race([opened.then((made) => (sandboxes = made)), life.died]);
    },
    stop: async () => {
      current().disarm();
      await sandboxes?.release();
    },
    kill: async () => {
      current().die();
      sandboxes = undefined;
      await untilQuiet();
    },
    [Symbol.asyncDispose]: async () => await owned.disposeAsync(),
  };
}

interface HostParts {
  readonly path: string;
  readonly machine: FakeMachine;
  readonly templates: TemplateStore;
  readonly database: Database;
  readonly sealer: Sealer;
  readonly life: DaemonLife;
  readonly saveWhole: boolean;
}

async function makeHost(parts: HostParts): Promise<HostContext> {
  const { path, machine, templates, database, sealer, life, saveWhole } = parts;
  const { gate, failpoint } = life;
  const snapshotRecords = new SnapshotRecords(database);
  const layers = gated(
    new SnapshotLayers(database),
    "snapshot layers",
    ["add", "snapshotIds", "layersOf", "usersOf", "remove"],
    gate,
  );
  const store = await SnapshotStore.open(path, sealer, layers);
  const driver = new FakeDriver(machine, gate);
  return {
    stateFolder: path,
    templates: gated(templates, "templates", ["open", "names"], gate),
    driver,
    driverOf: () => driver,
    pagers: new Pagers(),
    networkKind: "user",
    outside: hostOutside(),
    drainMs: 0,
    tags: await TemplateTags.open(database),
    records: gated(
      new SandboxRecords(database, sealer),
      "records",
      ["all", "save", "remove"],
      gate,
    ),
    snapshotRecords: gated(
      snapshotRecords,
      "snapshot records",
      ["all", "add", "setPool", "remove"],
      gate,
    ),
    store: gatedStore(store, gate),
    workingSets: gated(
      await WorkingSets.open(path, silentLogger),
      "working sets",
      ["plan", "share", "remove", "sweep"],
      gate,
    ),
    freshness: new Freshness(),
    wakeQueue: new WakeQueue(wakeLimits),
    log: silentLogger,
    saveWhole,
    spareCount: 0,
    failpoint,
  };
}

/** Publishing, too, is a point to die at. */
function gatedStore(store: SnapshotStore, gate: Gate): SnapshotStore {
  const outside = gated(store, "store", ["read", "has", "stage", "copy", "collect"], gate);
  const stage = async (snapshotId: string): Promise<StagedSnapshot> => {
    const staged = await outside.stage(snapshotId);
    return {
      path: staged.path,
      publish: (manifest) => gate("publish", () => staged.publish(manifest)),
      [Symbol.asyncDispose]: () => staged[Symbol.asyncDispose](),
    };
  };
  return new Proxy(outside, {
    get: (target, property) =>
      property === "stage" ? stage : (Reflect.get(target, property) as unknown),
  });
}

async function makeFolder(): Promise<string> {
  const inMemory = await mkdtemp(join(fastFolder, "torpor-model-")).catch(() => undefined);
  return inMemory ?? (await mkdtemp(join(tmpdir(), "torpor-model-")));
}

/** Until all that is under way has come to a gate, as far as the process can be asked. */
async function untilQuiet(): Promise<void> {
  for (let looks = 0; looks < quietLooks; looks += 1) {
    const listed = process.getActiveResourcesInfo();
    if (digesting > 0 || listed.some((name) => /^FSReq|^CloseReq|^TCPConnect/.test(name)))
      looks = 0;
    // Not by turns of the event loop: what is waited for may need this very processor.
    await sleep(1);
  }
}
