/**
 * A daemon inside the test's own process, on a port that the kernel chooses. A test may stop it and
 * start it again over the same state folder, as a new daemon.
 *
 * Disposing removes its sandboxes, if the folder is its own, and then asserts that nothing is left:
 * no VM, no folder, no socket, no network namespace that this process holds open.
 */
import assert from "node:assert/strict";
import { readdirSync, readlinkSync } from "node:fs";
import { type Daemon, type DaemonOptions, startDaemon } from "@torpor/host";
import type { NetworkKind, Outside } from "@torpor/network";
import { type Failpoint, type Logger, silentLogger } from "@torpor/std";
import { defaultCacheFolder } from "@torpor/storage";
import { DaemonApi } from "./daemon-api.ts";
import { StateFolder } from "./state-folder.ts";
import { TestSandbox } from "./test-sandbox.ts";

/** How a test's daemon differs from the usual one. */
export interface TestDaemonOptions {
  readonly failpoint?: Failpoint | undefined;
  readonly networkKind?: NetworkKind | undefined;
  readonly outside?: Outside | undefined;
  readonly spareCount?: number | undefined;
  readonly driver?: DaemonOptions["driver"];
  readonly pager?: DaemonOptions["pager"];
  readonly saveWhole?: boolean | undefined;
  readonly port?: number | undefined;
  readonly log?: Logger | undefined;
  /** The machine's own cache if undefined. */
  readonly cacheFolder?: string | undefined;
  /**
   * A folder of the daemon's own if undefined. A given one outlives the daemon, with its sandboxes
   * and VMs.
   */
  readonly state?: StateFolder | undefined;
}

/** The live parts of a sandbox, for tests that look behind the API. */
type LiveSandbox = ReturnType<Daemon["sandboxes"]["get"]>;
type LiveRun = NonNullable<LiveSandbox["run"]>;

/** A daemon under test. */
export interface TestDaemon extends AsyncDisposable {
  readonly state: StateFolder;
  readonly api: DaemonApi;
  create(template?: string, request?: object): Promise<TestSandbox>;
  /** The sandboxes of the daemon that runs now. */
  readonly sandboxes: Daemon["sandboxes"];
  live(sandbox: TestSandbox): LiveSandbox;
  /** The live run of a sandbox. @throws AssertionError when the sandbox is not running */
  run(sandbox: TestSandbox): LiveRun;
  /** Settles when the daemon's background work is done. */
  idle(): Promise<void>;
  /** Ends the daemon; its VMs continue to run. */
  stop(): Promise<void>;
  /** Starts a new daemon over the same folder. */
  start(): Promise<void>;
}

/** Starts a daemon. @throws whatever `startDaemon` throws, with nothing left behind */
export async function startTestDaemon(options: TestDaemonOptions = {}): Promise<TestDaemon> {
  const namespacesBefore = countNamespaces();
  await using undo = new AsyncDisposableStack();
  const { cacheFolder = defaultCacheFolder() } = options;
  const state = options.state ?? undo.use(await StateFolder.make(undefined, cacheFolder));
  const open = async (): Promise<Daemon> =>
    await startDaemon({
      stateFolder: state.path,
      cacheFolder,
      keyFile: state.keyFile,
      port: options.port ?? 0,
      log: options.log ?? silentLogger,
      networkKind: options.networkKind,
      outside: options.outside,
      spareCount: options.spareCount,
      driver: options.driver,
      pager: options.pager,
      saveWhole: options.saveWhole,
      failpoint: options.failpoint,
    });
  let daemon: Daemon | undefined = await open();
  const running = (): Daemon => {
    assert.ok(daemon !== undefined, "the daemon of this test is stopped");
    return daemon;
  };
  const stop = async (): Promise<void> => {
    await daemon?.[Symbol.asyncDispose]();
    daemon = undefined;
  };
  undo.defer(() => assert.equal(countNamespaces(), namespacesBefore, "a namespace is held open"));
  undo.defer(stop);
  undo.defer(async () => {
    if (options.state !== undefined) return;
    const sandboxes = daemon?.sandboxes;
    for (const { record } of sandboxes?.all() ?? []) await sandboxes?.remove(record.id);
    for (const { id } of sandboxes?.snapshots.all() ?? []) await sandboxes?.removeSnapshot(id);
    await sandboxes?.idle();
  });
  const owned = undo.move();
  const api = new DaemonApi(state.socketPath);
  const live = (sandbox: TestSandbox): LiveSandbox => running().sandboxes.get(sandbox.id);
  return {
    state,
    api,
    create: (template, request) => TestSandbox.create(api, template, request),
    get sandboxes() {
      return running().sandboxes;
    },
    live,
    run: (sandbox) => {
      const { run } = live(sandbox);
      assert.ok(run !== undefined, "the sandbox is running");
      return run;
    },
    idle: async () => {
      await running().sandboxes.idle();
    },
    stop,
    start: async () => {
      daemon ??= await open();
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** Counts descriptors of this process that keep a network namespace or a TAP device alive. */
function countNamespaces(): number {
  return readdirSync("/proc/self/fd").filter((fd) => {
    try {
      return /^net:|^\/dev\/net\/tun$/.test(readlinkSync(`/proc/self/fd/${fd}`));
    } catch {
      return false; // the descriptor of the listing itself
    }
  }).length;
}
