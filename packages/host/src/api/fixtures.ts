/**
 * The API over real HTTP with sandboxes that are records only: no VM runs, and every verb takes
 * effect at once. Keys, tags, snapshots and templates are the real ones, in a temporary folder.
 *
 * Every answer of a known route is checked against the OpenAPI document by the validator that the
 * test passes.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempDisposable, writeFile } from "node:fs/promises";
import { type IncomingHttpHeaders, type IncomingMessage, type Server, request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Logger, TorporError, parseJson, silentLogger } from "@torpor/std";
import {
  KeyFile,
  SandboxFolder,
  Sealer,
  SnapshotStore,
  type TemplateManifest,
  TemplateStore,
  keyFileName,
} from "@torpor/storage";
import { ApiKeys } from "../api-keys.ts";
import { Edge } from "../edge/edge.ts";
import { createListener } from "../edge/listener.ts";
import { newSandboxId, newSecret, newSnapshotId } from "../entropy.ts";
import type { LogEntry } from "../guest-log-line.ts";
import { Idempotency } from "../idempotency.ts";
import { begin, extend, newLifetime, rest, setTimeoutMs } from "../lifecycle/lifetime.ts";
import type { SandboxState } from "../lifecycle/state.ts";
import { openDatabase } from "../records/database.ts";
import { IdempotencyRecords } from "../records/idempotency-records.ts";
import { openNetwork } from "../network-request.ts";
import type { SandboxRecord } from "../records/sandbox-records.ts";
import { SnapshotLayers } from "../records/snapshot-layers.ts";
import { SnapshotRecords } from "../records/snapshot-records.ts";
import { RequestsUnderWay } from "../requests-under-way.ts";
import type { Command } from "../sandbox/command.ts";
import type { ResumeCommand } from "../sandbox/resume.ts";
import type { CreateRequest, Decided, ForkRequest } from "../sandboxes.ts";
import { Snapshots } from "../snapshots.ts";
import { TemplateTags, parseNewName } from "../template-tags.ts";
import type { ApiHost, ApiPolicy, ApiSandbox, ApiSandboxes } from "./api-host.ts";
import type { ListenerLimits } from "./listener.ts";
import { openApiDocument } from "./openapi/document.ts";
import type { Route } from "./route.ts";
import { allRoutes } from "./routes.ts";
import { createApi } from "./server.ts";

const fakeTemplateId = "t".repeat(20);
/** The domain of every fake API. */
export const servedDomain = "box.localhost:7443";
const bytesPerMiB = 1024 * 1024;

/** The part of a JSON Schema library that is used; tests bring the library along. */
export interface SchemaValidator {
  addSchema(schema: object, name: string): unknown;
  compile(schema: object): ((value: unknown) => unknown) & { readonly errors?: unknown };
}

/** How the fake API differs from the usual one. */
export interface FakeApiOptions {
  readonly validator: SchemaValidator;
  readonly requireKey?: boolean;
  readonly policy?: Partial<ApiPolicy>;
  readonly limits?: ListenerLimits;
  readonly log?: Logger;
}

/** An answer, read to its end. */
export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  /** The parsed JSON; undefined if the answer has no body. */
  readonly body: unknown;
}

/** The parts of a call besides method and path. */
export interface CallOptions {
  /** An object is sent as JSON, a text as it is. */
  readonly body?: object | string | undefined;
  readonly headers?: Readonly<Record<string, string>>;
}

/** The API under test. Disposing closes it and removes its folder. */
export interface FakeApi extends AsyncDisposable {
  readonly host: ApiHost;
  readonly sandboxes: FakeSandboxes;
  readonly port: number;
  /** The listener itself. */
  readonly server: Server;
  readonly routes: readonly Route[];
  /** The routes that the server serves, as `METHOD /path`. */
  readonly served: readonly string[];
  /** Calls the API; sends bodies in chunks, without their length, as Node's fetch does. */
  call(method: string, path: string, options?: CallOptions): Promise<Answer>;
  /** Counts the connections to the server. */
  countConnections(): Promise<number>;
}

/** Starts the API on loopback, on a port of its own. */
export async function startFakeApi(options: FakeApiOptions): Promise<FakeApi> {
  await using undo = new AsyncDisposableStack();
  const folder = undo.use(await mkdtempDisposable(join(tmpdir(), "torpor-api-")));
  const sealer = new Sealer(KeyFile.open(join(folder.path, keyFileName), silentLogger));
  const database = await openDatabase(":memory:", { sealer, stateFolder: folder.path });
  const store = await SnapshotStore.open(folder.path, sealer, new SnapshotLayers(database));
  undo.defer(() => database.destroy());
  const templates = new TemplateStore(join(folder.path, "templates"));
  await publishTemplate(templates);
  const tags = await TemplateTags.open(database);
  const snapshotRecords = new SnapshotRecords(database);
  const snapshots = await Snapshots.open({ snapshotRecords, tags, templates, store });
  const sandboxes = new FakeSandboxes(folder.path, snapshots, store, templates, tags);
  const host: ApiHost = {
    sandboxes,
    templates,
    tags,
    idempotency: await Idempotency.open({
      records: new IdempotencyRecords(database),
      exists: (id) => sandboxes.exists(id),
      log: options.log ?? silentLogger,
    }),
    apiKeys: await ApiKeys.open(database, "api-key"),
    accessTokens: await ApiKeys.open(database, "access-token"),
    metrics: { of: () => Promise.resolve([]) },
    logs: { of: (sandbox) => Promise.resolve(sandboxes.logs.get(sandbox.record.id) ?? []) },
    describe: () => Promise.resolve({}),
    requests: new RequestsUnderWay(),
    servedDomain: () => servedDomain,
    isEnding: () => sandboxes.areEnding,
    log: options.log ?? silentLogger,
    policy: {
      timeoutMsMax: 24 * 3_600_000,
      requestsMax: 0,
      answerMsMax: 30_000,
      ...options.policy,
    },
  };
  const edge = new Edge({ domain: "localhost", find: () => undefined });
  const app = await createApi({
    host,
    requireKey: options.requireKey ?? false,
    createServer: createListener.bind(undefined, edge),
    limits: options.limits,
  });
  undo.defer(() => {
    app.server.close();
    app.server.closeAllConnections();
  });
  app.server.listen(0, "127.0.0.1");
  await once(app.server, "listening");
  const address = app.server.address();
  const port = typeof address === "object" ? (address?.port ?? 0) : 0;
  const routes = allRoutes(host);
  const check = answerChecker(options.validator, routes);
  const owned = undo.move();
  return {
    host,
    sandboxes,
    port,
    server: app.server,
    routes,
    served: servedRoutes(app.printRoutes({ commonPrefix: false })),
    call: async (method, path, call) => {
      const answer = await exchange(port, method, path, call);
      check(method, path, answer);
      return answer;
    },
    countConnections: () =>
      new Promise((resolve, reject) => {
        app.server.getConnections((error, count) => {
          if (error === null) resolve(count);
          else reject(error);
        });
      }),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

class FakeSandbox {
  readonly run = undefined;
  readonly folder: SandboxFolder;
  record: SandboxRecord;
  /** The argument of the last resume. */
  resumed: ResumeCommand | undefined;

  readonly #beforeWork: () => Promise<void>;

  constructor(stateFolder: string, record: SandboxRecord, beforeWork: () => Promise<void>) {
    this.folder = new SandboxFolder(stateFolder, record.id);
    this.record = record;
    this.#beforeWork = beforeWork;
  }

  change(change: Partial<SandboxRecord>): void {
    this.record = { ...this.record, ...change };
  }

  pause: ApiSandbox["pause"] = async () => {
    await this.#beforeWork();
    const { lifetime, startedAtMs, state } = this.record;
    if (state.kind === "paused") return unchanged;
    const rested = rest(lifetime, startedAtMs, Date.now());
    this.change({ state: { kind: "paused" }, snapshotId: newSnapshotId(), lifetime: rested });
    return { changed: true, timings: [{ step: "save memory", tookMs: 1 }] };
  };

  resume: ApiSandbox["resume"] = async (command?: ResumeCommand) => {
    await this.#beforeWork();
    this.resumed = command;
    const timeoutMs = command?.timeoutMs;
    const { lifetime, state } = this.record;
    const nowMs = Date.now();
    if (state.kind === "running") {
      if (timeoutMs !== undefined) this.change({ lifetime: extend(lifetime, timeoutMs, nowMs) });
      return unchanged;
    }
    const began = begin(lifetime, nowMs);
    this.change({
      state: runningState,
      startedAtMs: nowMs,
      lifetime: timeoutMs === undefined ? began : setTimeoutMs(began, timeoutMs, nowMs, nowMs),
    });
    return { changed: true, timings: [] };
  };

  setTimeoutMs: ApiSandbox["setTimeoutMs"] = async (timeoutMs) => {
    await this.#beforeWork();
    const { lifetime, startedAtMs, state } = this.record;
    const since = state.kind === "running" ? startedAtMs : undefined;
    this.change({ lifetime: setTimeoutMs(lifetime, timeoutMs, since, Date.now()) });
  };

  extendTimeoutMs: ApiSandbox["extendTimeoutMs"] = async (timeoutMs) => {
    await this.#beforeWork();
    this.change({ lifetime: extend(this.record.lifetime, timeoutMs, Date.now()) });
  };

  setNetwork: ApiSandbox["setNetwork"] = async (network) => {
    await this.#beforeWork();
    this.change({ network: network === null ? null : { ...openNetwork, ...network } });
  };
}

/** Stands for the VM of a fake, which no code uses. */
const runningState = { kind: "running" } as unknown as SandboxState;

class FakeSandboxes implements ApiSandboxes {
  readonly snapshots: Snapshots;
  readonly store: SnapshotStore;
  readonly logs = new Map<string, readonly LogEntry[]>();
  /** Makes the daemon look as if it had been asked to end. */
  areEnding = false;
  /** Awaited by everything that takes effect; tests replace it to delay or fail the work. */
  beforeWork: () => Promise<void> = () => Promise.resolve();
  readonly #stateFolder: string;
  readonly #templates: TemplateStore;
  readonly #tags: TemplateTags;
  readonly #byId = new Map<string, FakeSandbox>();

  constructor(
    stateFolder: string,
    snapshots: Snapshots,
    store: SnapshotStore,
    templates: TemplateStore,
    tags: TemplateTags,
  ) {
    this.#stateFolder = stateFolder;
    this.snapshots = snapshots;
    this.store = store;
    this.#templates = templates;
    this.#tags = tags;
  }

  all(): readonly FakeSandbox[] {
    return [...this.#byId.values()];
  }

  get(id: string): FakeSandbox {
    const found = this.#byId.get(id);
    if (found !== undefined) return found;
    throw new TorporError("sandbox.notFound", `there is no sandbox ${id}`);
  }

  /** Adds a sandbox that exists already, in any state. */
  add(change: Partial<SandboxRecord> = {}): FakeSandbox {
    const nowMs = Date.now();
    const record: SandboxRecord = {
      id: newSandboxId(),
      templateId: fakeTemplateId,
      templateName: "base",
      generation: 1,
      snapshotId: null,
      previousSnapshotId: null,
      state: runningState,
      diskLayers: [],
      lifetime: begin(newLifetime({ timeoutMs: 60_000 }), nowMs),
      hostKey: newSecret(),
      accessToken: newSecret(),
      metadata: {},
      envVars: {},
      createdAtMs: nowMs,
      startedAtMs: nowMs,
      network: null,
      autoResume: null,
      ...change,
    };
    const sandbox = new FakeSandbox(this.#stateFolder, record, () => this.beforeWork());
    this.#byId.set(record.id, sandbox);
    return sandbox;
  }

  exists(id: string): boolean {
    return this.#byId.has(id) || this.snapshots.ids().includes(id);
  }

  create: ApiSandboxes["create"] = async (wanted: CreateRequest, decided?: Decided) => {
    await this.beforeWork();
    if (this.snapshots.find(wanted.template) === undefined) {
      await this.#templates.open(this.#tags.resolve(wanted.template));
    }
    const { metadata, envVars, network, autoResume } = wanted;
    const id = newSandboxId();
    await decided?.([id]);
    const sandbox = this.add({
      id,
      metadata,
      envVars,
      network: network ?? null,
      autoResume: autoResume ?? null,
      lifetime: begin(newLifetime(wanted.lifetime), Date.now()),
      ...(wanted.secure === false ? { accessToken: null } : {}),
    });
    return { sandbox, outcome: { changed: true, timings: [{ step: "init", tookMs: 1 }] } };
  };

  /** The third child of every fork fails. */
  fork: ApiSandboxes["fork"] = async (
    id: string,
    { count, lifetime }: ForkRequest,
    _command?: Command,
    decided?: Decided,
  ) => {
    await this.beforeWork();
    const { metadata } = this.get(id).record;
    const ids = Array.from({ length: count }, newSandboxId);
    await decided?.(ids);
    const children = ids.map((childId, index) => {
      if (index === 2) {
        const reason = new TorporError("storage.noSpace", "the disk is full");
        return { status: "rejected", reason } as const;
      }
      const began = begin(newLifetime(lifetime), Date.now());
      const sandbox = this.add({ id: childId, metadata, lifetime: began });
      return { status: "fulfilled", value: { sandbox, outcome: unchanged } } as const;
    });
    return { snapshotId: newSnapshotId(), timings: [], children };
  };

  remove: ApiSandboxes["remove"] = async (id) => {
    this.get(id);
    await this.beforeWork();
    this.#byId.delete(id);
    return { changed: true, timings: [] };
  };

  takeSnapshot: ApiSandboxes["takeSnapshot"] = async (sandboxId, as, _command, decided) => {
    this.get(sandboxId);
    await this.beforeWork();
    const id = newSnapshotId();
    await decided?.([id]);
    const taken = { id, sandboxId, templateId: fakeTemplateId, createdAtMs: Date.now() };
    await this.snapshots.add(taken, as === null ? undefined : parseNewName(as));
    return id;
  };

  removeSnapshot: ApiSandboxes["removeSnapshot"] = async (reference) => {
    await this.beforeWork();
    await this.snapshots.remove(this.snapshots.get(reference).id);
  };

  removeTemplate: ApiSandboxes["removeTemplate"] = async (reference) => {
    await this.beforeWork();
    const { manifest } = await this.#templates.open(this.#tags.resolve(reference));
    await this.#templates.remove(manifest.templateId);
  };

  setPool: ApiSandboxes["setPool"] = async (reference, count) => {
    await this.beforeWork();
    await this.snapshots.setPool(this.snapshots.get(reference).id, count);
  };

  missedDeadline: ApiSandboxes["missedDeadline"] = () => undefined;
}

const unchanged = { changed: false, timings: [] };

async function publishTemplate(templates: TemplateStore): Promise<void> {
  await using staged = await templates.stage(fakeTemplateId);
  for (const path of Object.values(staged.files)) await writeFile(path, "");
  const machine = {
    vcpuCount: 1,
    memoryMiB: 512,
    kernelArguments: "",
    guestMac: "",
    guestVisible: [],
  };
  const manifest: Partial<TemplateManifest> = {
    format: "torpor-template-3",
    templateId: fakeTemplateId,
    name: "base",
    createdAtMs: Date.now(),
    machine,
    diskBytes: 4096 * bytesPerMiB,
  };
  await staged.publish(manifest as TemplateManifest);
  await templates.assignName("base", fakeTemplateId);
}

async function exchange(
  port: number,
  method: string,
  path: string,
  { body, headers = {} }: CallOptions = {},
): Promise<Answer> {
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
  const chunked = { "content-type": "application/json", "transfer-encoding": "chunked" };
  const own: Readonly<Record<string, string>> = body === undefined ? {} : chunked;
  const outgoing = request({ port, host: "127.0.0.1", agent: false, method, path });
  for (const [name, value] of Object.entries({ ...own, ...headers })) {
    outgoing.setHeader(name, value);
  }
  outgoing.on("response", resolve);
  outgoing.on("error", reject);
  if (body === undefined) outgoing.end();
  else {
    outgoing.write(typeof body === "string" ? body : JSON.stringify(body));
    outgoing.end();
  }
  const response = await promise;
  let text = "";
  response.setEncoding("utf8");
  for await (const chunk of response) text += String(chunk);
  return {
    status: response.statusCode ?? 0,
    headers: response.headers,
    text,
    body: text === "" ? undefined : parseJson(text, "answer"),
  };
}

function answerChecker(
  validator: SchemaValidator,
  routes: readonly Route[],
): (method: string, path: string, answer: Answer) => void {
  validator.addSchema(openApiDocument(routes), "document");
  return (method, path, { status, text, body }) => {
    const route = findRoute(routes, method, path);
    if (route === undefined) return;
    const what = `${route.method} ${route.path} ${status}`;
    const named = status in route.answers;
    assert.ok(named || status >= 400, `${what} is not in the document`);
    if (named && route.answers[status] === null) {
      assert.equal(text, "", what);
      return;
    }
    const at = [route.path, route.method.toLowerCase(), "responses", named ? status : "default"];
    const pointer = at.map((part) => String(part).replaceAll("~", "~0").replaceAll("/", "~1"));
    const validate = validator.compile({
      $ref: `document#/paths/${pointer.map(encodeURIComponent).join("/")}/content/application~1json/schema`,
    });
    assert.ok(validate(body) === true, `${what}: ${JSON.stringify(validate.errors)}: ${text}`);
  };
}

/** Finds the route of a path; among several, the one with fewer parameters. */
function findRoute(routes: readonly Route[], method: string, path: string): Route | undefined {
  const plain = path.split("?")[0] ?? "";
  return routes
    .filter((one) => one.method === method)
    .filter(({ path: pattern }) => {
      const source = pattern.split(/\{\w+\}/).map((part) => RegExp.escape(part));
      return new RegExp(`^${source.join("[^/]+")}$`).test(plain);
    })
    .sort((a, b) => a.path.split("{").length - b.path.split("{").length)
    .at(0);
}

/** Parses Fastify's own drawing of the routes it serves. */
function servedRoutes(drawing: string): readonly string[] {
  const stack: { indent: number; path: string }[] = [];
  const found: string[] = [];
  for (const line of drawing.split("\n")) {
    const match = /^([│ ]*)[├└]── (\S*)(?: \(([A-Z, ]+)\))?$/.exec(line);
    if (match === null) continue;
    const [, lead = "", part = "", methods] = match;
    while ((stack.at(-1)?.indent ?? -1) >= lead.length) stack.pop();
    const path = `${stack.at(-1)?.path ?? ""}${part}`;
    stack.push({ indent: lead.length, path });
    for (const method of methods?.split(", ") ?? []) found.push(`${method} ${path}`);
  }
  return found;
}
