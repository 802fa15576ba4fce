/**
 * The daemon: takes the state folder, settles what an earlier daemon left, and serves.
 *
 * Two listeners share one API and one edge: a Unix socket in the state folder for any process that
 * may open it, and a TCP port on loopback whose API requires a key. With a certificate, the second
 * is also served over TLS. VMs outlive the daemon, which lets go of them when it ends.
 */
import type { Server } from "node:http";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { tryLockFile } from "@torpor/native";
import { type NetworkKind, type Outside, defaultNetworkKind, hostOutside } from "@torpor/network";
import {
  type Failpoint,
  type JsonObject,
  type Logger,
  TorporError,
  ignoreFailure,
} from "@torpor/std";
import {
  KeyFile,
  Sealer,
  SnapshotStore,
  TemplateStore,
  claimStateFolder,
  stateFiles,
  templatesFolder,
} from "@torpor/storage";
import {
  type Accelerator,
  type ConfinementOptions,
  type UserIdRange,
  type VmmDriver,
  defaultUserIds,
  openCgroups,
  sweepCgroups,
} from "@torpor/vmm";
import type { ApiHost, ApiPolicy } from "./api/api-host.ts";
import { defaultAnswerMsMax } from "./api/patience.ts";
import { createApi } from "./api/server.ts";
import { ApiKeys } from "./api-keys.ts";
import { limitConsoles } from "./console-limit.ts";
import { driversOf, reachingDriver } from "./drivers.ts";
import { Edge } from "./edge/edge.ts";
import { createListener } from "./edge/listener.ts";
import { type TlsSettings, listenTls } from "./edge/tls-listener.ts";
import { Freshness } from "./freshness.ts";
import { GuestLogs } from "./guest-logs.ts";
import { GuestMetrics } from "./guest-metrics.ts";
import type { HostContext } from "./host-context.ts";
import { Idempotency } from "./idempotency.ts";
import { listenTcp, listenUnix } from "./listen.ts";
import { type PagerSettings, Pagers } from "./pagers.ts";
import { openDatabase } from "./records/database.ts";
import { IdempotencyRecords } from "./records/idempotency-records.ts";
import { SandboxRecords } from "./records/sandbox-records.ts";
import { SnapshotLayers } from "./records/snapshot-layers.ts";
import { SnapshotRecords } from "./records/snapshot-records.ts";
import { RequestsUnderWay } from "./requests-under-way.ts";
import { withRequestId } from "./request-context.ts";
import { Sandboxes } from "./sandboxes.ts";
import { servedDomain } from "./served-domain.ts";
import { watchStalls } from "./stall-watch.ts";
import { checkTemplates } from "./template-check.ts";
import { TemplateTags } from "./template-tags.ts";
import { type WakeQueueLimits, WakeQueue } from "./wake-queue.ts";
import { WorkingSets } from "./working-sets.ts";

const version = "0.1.0";
const loopback = "127.0.0.1";
/** Every name below it resolves to loopback, without any DNS (RFC 6761, 6.3). */
const defaultDomain = "localhost";
const defaultDrainMs = 2_000;
/**
 * LIMITS for sandboxes that start at the same time. A wake keeps one or two processors busy for a
 * second under emulation. Past `waitMsMax` the client would have timed out before its sandbox is
 * ready (see patience.ts).
 */
const wakeLimits: WakeQueueLimits = {
  atOnce: Math.max(4, 2 * availableParallelism()),
  turnMsMax: 10_000,
  waitMsMax: 45_000,
};
const defaultPolicy: ApiPolicy = {
  // A month.
  timeoutMsMax: 30 * 24 * 60 * 60 * 1000,
  requestsMax: 20_000,
  answerMsMax: defaultAnswerMsMax,
};

/** Settings of a daemon; each optional one has a default. */
export interface DaemonOptions {
  readonly stateFolder: string;
  readonly cacheFolder: string;
  /** Path of the file with the key that seals secrets at rest; created if missing. */
  readonly keyFile: string;
  /** Port on loopback; 0 lets the kernel choose. */
  readonly port: number;
  readonly log: Logger;
  /** Sandboxes have host names below this domain: `<port>-<id>.<domain>`. */
  readonly domain?: string | undefined;
  /** Serve over TLS too, with these settings. */
  readonly tls?: TlsSettings | undefined;
  /** How long requests in flight have to finish before a pause. */
  readonly drainMs?: number | undefined;
  readonly networkKind?: NetworkKind | undefined;
  /** Replaces the internet; only tests pass one. */
  readonly outside?: Outside | undefined;
  /** Save all of a guest by the VMM's own means; see `HostContext`. */
  readonly saveWhole?: boolean | undefined;
  /** Spare sandboxes per template in use; none by default. */
  readonly spareCount?: number | undefined;
  /** Limits of the API; each field that is left out has its default. */
  readonly policy?: Partial<ApiPolicy> | undefined;
  /** Replaces every copy of the VMM; only tests pass one. */
  readonly driver?: ((pagers: Pagers) => VmmDriver) | undefined;
  readonly failpoint?: Failpoint | undefined;
  /** User ids for the processes of VMs, when the daemon is root. */
  readonly userIds?: UserIdRange | undefined;
  /** `defaultPagerSettings` unless set. */
  readonly pager?: PagerSettings | undefined;
  /** The settings that `GET /torpor/daemon` shows; nothing secret. */
  readonly settings?: Readonly<Record<string, string>> | undefined;
}

/** A serving daemon. Disposing it stops serving and lets go of the VMs. */
export interface Daemon extends AsyncDisposable {
  readonly sandboxes: Sandboxes;
  /** Path of the Unix socket. */
  readonly socketPath: string;
  /** URL of the TCP listener. */
  readonly url: string;
  /** URL of the TLS listener; undefined without a certificate. */
  readonly tlsUrl: string | undefined;
  /**
   * From this call on the API starts nothing new, which would be interrupted or left out of a
   * pause.
   */
  readonly beginEnding: () => void;
  /** Describes the work in progress, in counts, ids and names of routes. Never throws. */
  readonly describeWork: () => JsonObject;
}

/**
 * Takes the state folder, settles what is in it, and serves.
 * @throws daemon.alreadyRunning when another daemon holds the state folder, storage.exposed when
 *   other users could change it, secrets.locked without its key, port.inUse, template.missing when
 *   no template tells which accelerator to use
 */
export async function startDaemon(options: DaemonOptions): Promise<Daemon> {
  await using undo = new AsyncDisposableStack();
  claimStateFolder(options.stateFolder, options.log);
  undo.use(lockState(options.stateFolder));
  const keys = KeyFile.open(options.keyFile, options.log);
  const sealer = new Sealer(keys);
  const databasePath = join(options.stateFolder, stateFiles.database);
  const database = await openDatabase(databasePath, {
    sealer,
    stateFolder: options.stateFolder,
  });
  undo.defer(() => database.destroy());
  const templates = new TemplateStore(templatesFolder(options.cacheFolder));
  const accelerator = await acceleratorOf(templates);
  const log = withRequestId(options.log);
  const confinement = confinementOf(options);
  const pagers = new Pagers(options.pager);
  const driver = options.driver?.(pagers);
  const host: HostContext = {
    stateFolder: options.stateFolder,
    templates,
    driver: driver ?? reachingDriver(accelerator, pagers),
    driverOf: driver === undefined ? driversOf(options.cacheFolder, confinement) : () => driver,
    pagers,
    networkKind: options.networkKind ?? defaultNetworkKind(),
    outside: options.outside ?? undo.use(hostOutside()),
    records: new SandboxRecords(database, sealer),
    snapshotRecords: new SnapshotRecords(database),
    store: await SnapshotStore.open(options.stateFolder, sealer, new SnapshotLayers(database)),
    workingSets: await WorkingSets.open(options.stateFolder, log),
    tags: await TemplateTags.open(database),
    freshness: new Freshness(),
    wakeQueue: new WakeQueue(wakeLimits),
    saveWhole: options.saveWhole ?? false,
    drainMs: options.drainMs ?? defaultDrainMs,
    log,
    spareCount: options.spareCount ?? 0,
    failpoint: options.failpoint,
  };
  const sandboxes = await Sandboxes.open(host);
  // ORDER: all sealed data has been opened, so a new key cannot take the place of a lost one.
  keys.current();
  if (confinement?.cgroups.kind === "usable") sweepCgroups(confinement.cgroups.parent);
  undo.defer(() => sandboxes.release());
  undo.use(limitConsoles(sandboxes, log));
  undo.use(watchStalls(sandboxes));
  undo.use(checkTemplates(templates, log));
  const startedAtMs = Date.now();
  const domain = options.domain ?? defaultDomain;
  const edge = new Edge({ domain, find: (id) => sandboxes.find(id), log });
  let url = "";
  let tlsUrl: string | undefined;
  const domainForClients = (): string => servedDomain(domain, tlsUrl ?? url);
  const describe = async (): Promise<JsonObject> => ({
    pid: process.pid,
    version,
    startedAtMs,
    stateFolder: options.stateFolder,
    accelerator,
    network: host.networkKind,
    url,
    tlsUrl: tlsUrl ?? null,
    domain,
    servedDomain: domainForClients(),
    templates: await templates.names(),
    sandboxCount: sandboxes.all().length,
    sparesReady: sandboxes.sparesReady,
    settings: options.settings ?? {},
  });
  const requests = new RequestsUnderWay();
  let isEnding = false;
  const apiHost: ApiHost = {
    sandboxes,
    templates,
    tags: host.tags,
    idempotency: await Idempotency.open({
      records: new IdempotencyRecords(database),
      exists: (id) => sandboxes.exists(id),
      log,
    }),
    apiKeys: await ApiKeys.open(database, "api-key"),
    accessTokens: await ApiKeys.open(database, "access-token"),
    metrics: undo.use(new GuestMetrics(() => sandboxes.all())),
    logs: undo.use(new GuestLogs(() => sandboxes.all())),
    describe,
    requests,
    servedDomain: domainForClients,
    isEnding: () => isEnding,
    log,
    policy: { ...defaultPolicy, ...options.policy },
  };
  const createServer = createListener.bind(undefined, edge);
  const shared = { host: apiHost, createServer };
  const tcp = await createApi({ ...shared, requireKey: true });
  undo.defer(() => closeNow(tcp.server));
  url = `http://${loopback}:${await listenTcp(tcp.server, loopback, options.port)}`;
  if (options.tls !== undefined) {
    const { port } = undo.use(await listenTls(tcp.server, edge.connections, options.tls, log));
    tlsUrl = `https://${domain}:${port}`;
  }
  const local = await createApi({ ...shared, requireKey: false });
  undo.defer(() => closeNow(local.server));
  const socketPath = join(options.stateFolder, stateFiles.socket);
  await listenUnix(local.server, socketPath);
  const pools = sandboxes.snapshots.all().filter(({ pool }) => pool > 0);
  for (const name of [...(await templates.names()), ...pools.map(({ id }) => id)]) {
    await ignoreFailure("a template that cannot be opened", sandboxes.prepareSpares(name));
  }
  const running = undo.move();
  return {
    sandboxes,
    socketPath,
    url,
    tlsUrl,
    beginEnding: () => {
      isEnding = true;
    },
    describeWork: () => ({ version, ...countWork(sandboxes), requests: requests.describe() }),
    [Symbol.asyncDispose]: () => running.disposeAsync(),
  };
}

function countWork(sandboxes: Sandboxes): JsonObject {
  const all = sandboxes.all();
  const states = Object.groupBy(all, ({ record }) => record.state.kind);
  const byState = Object.entries(states).map(([kind, some]) => [kind, some.length]);
  const exchanges = all.reduce((sum, { run }) => sum + (run?.traffic.count ?? 0), 0);
  return { sandboxes: Object.fromEntries(byState), exchangesWithGuests: exchanges };
}

/** Only root can give a process another user and another view of the file system. */
function confinementOf({ userIds, log }: DaemonOptions): ConfinementOptions | undefined {
  if (process.getuid?.() !== 0) return undefined;
  const cgroups = openCgroups();
  if (cgroups.kind === "unusable") {
    log.warn("VMs run without limits of memory and processes", { why: cgroups.why });
  }
  return { userIds: userIds ?? defaultUserIds, cgroups };
}

function lockState(stateFolder: string): Disposable {
  const lock = tryLockFile(join(stateFolder, stateFiles.lock));
  if (lock === undefined) {
    throw new TorporError("daemon.alreadyRunning", `another daemon serves ${stateFolder}`);
  }
  return lock;
}

/** A template runs under the accelerator that it was booted with; the first one decides for all. */
async function acceleratorOf(templates: TemplateStore): Promise<Accelerator> {
  for (const name of await templates.names()) {
    const template = await templates.open(name).catch(() => undefined);
    if (template !== undefined) return template.manifest.identity.accelerator;
  }
  throw new TorporError("template.missing", "there is no template yet that can be opened", {
    advice: "Build it with `torpor up`.",
  });
}

function closeNow(server: Server): void {
  server.close();
  server.closeAllConnections();
}
