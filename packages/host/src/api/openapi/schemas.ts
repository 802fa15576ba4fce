/**
 * The JSON of requests and answers as JSON Schema, by name. Schemas of answers list every field,
 * and say which are required. Schemas of request bodies list all fields that are known; see
 * body-fields.ts for others.
 */

/** A JSON Schema. */
export type Schema = Readonly<Record<string, unknown>>;

const text = { type: "string" } as const;
const flag = { type: "boolean" } as const;
const count = { type: "integer", minimum: 0 } as const;
const amount = { type: "number", minimum: 0 } as const;
const instant = { type: "string", format: "date-time" } as const;
const texts = { type: "array", items: text } as const;
const textMap = { type: "object", additionalProperties: text } as const;
const domain = { ...text, description: "Behind <port>-<id>. in addresses of the sandbox" } as const;
const emptyList = { type: "array", maxItems: 0 } as const;
const timeout = { type: "integer", minimum: 0, description: "Seconds" } as const;
const timeoutMs = { type: ["integer", "null"], minimum: 0, description: "Null: never" } as const;

const egress = {
  allowOut: texts,
  denyOut: texts,
  dnsServers: emptyList,
  egressProxy: { type: "null" },
  rules: { type: "object", maxProperties: 0 },
} as const;
const lifetime = {
  timeout,
  timeoutMs,
  autoPause: flag,
  idleTimeoutMs: timeoutMs,
  maxRunMs: timeoutMs,
} as const;

/** All schemas, by the names that routes use. */
export const schemas = {
  Error: object({
    code: { type: "integer", description: "The status of the answer" },
    message: text,
    error_code: { ...text, description: "One word of a closed list" },
    effect: { enum: ["none", "maybe", "done"], description: "Whether anything may have changed" },
    advice: { ...text, description: "What to do next" },
  }),
  /** Answers of Torpor's own routes, which the CLI of the same version reads. */
  Own: { type: "object" },
  Names: texts,

  NewSandbox: body(
    {
      templateID: { ...text, description: "Id or name of a template or a snapshot" },
      ...lifetime,
      cpuCount: { ...count, description: "What the template has, or nothing is made" },
      memoryMB: { ...count, description: "What the template has, or nothing is made" },
      secure: flag,
      autoPauseMemory: { const: true },
      autoResume: { type: ["object", "null"], properties: { enabled: flag } },
      allow_internet_access: { type: ["boolean", "null"] },
      network: {
        type: ["object", "null"],
        properties: {
          ...egress,
          allowPublicTraffic: { type: ["boolean", "null"] },
          maskRequestHost: text,
          httpsPorts: emptyList,
        },
      },
      metadata: textMap,
      envVars: textMap,
      mcp: { type: ["object", "null"] },
      iam: {
        type: ["object", "null"],
        properties: { tokens: { type: "object", maxProperties: 0 } },
      },
      volumeMounts: emptyList,
    },
    ["templateID"],
  ),
  ForkRequest: body({ ...lifetime, count: { type: "integer", minimum: 1, maximum: 100 } }),
  PauseRequest: body({
    memory: { const: true },
    requireHealthyGuest: { ...flag, description: "A pause here always needs the guest's agent" },
  }),
  ConnectRequest: body({
    timeout,
    timeoutMs,
    keepTimeout: { ...flag, description: "Go on with what was left of the timeout" },
    previous: { ...flag, description: "Go on from the snapshot before the newest one" },
    memory: { const: true },
  }),
  ResumeRequest: body({ timeout, timeoutMs, autoPause: flag, memory: { const: true } }),
  TimeoutRequest: body({ timeout, timeoutMs }),
  RefreshRequest: body({ duration: { type: "integer", minimum: 0, maximum: 3600 } }),
  NetworkUpdate: body({
    ...egress,
    httpsPorts: emptyList,
    allow_internet_access: { type: ["boolean", "null"] },
  }),
  SnapshotRequest: body({ name: text, memory: { const: true } }),
  PoolRequest: body({ count }, ["count"]),
  AssignTags: body({ target: text, tags: texts }, ["target", "tags"]),
  RemoveTags: body({ name: text, tags: texts }, ["name", "tags"]),
  NewKey: body({ name: text }, ["name"]),

  Sandbox: object({
    sandboxID: text,
    templateID: text,
    alias: text,
    clientID: text,
    envdVersion: text,
    envdAccessToken: { type: ["string", "null"] },
    trafficAccessToken: { type: ["string", "null"] },
    domain,
  }),
  ListedSandbox: object(listed()),
  SandboxDetail: object(
    {
      ...listed(),
      envdAccessToken: { type: ["string", "null"] },
      domain,
      allowInternetAccess: { type: ["boolean", "null"] },
      lifecycle: object({ autoResume: flag, onTimeout: { enum: ["kill", "pause"] } }),
      network: object(
        { allowOut: texts, denyOut: texts, allowPublicTraffic: flag, maskRequestHost: text },
        ["maskRequestHost"],
      ),
    },
    ["network"],
  ),
  ForkResult: { oneOf: [object({ sandbox: ref("Sandbox") }), object({ error: ref("Error") })] },
  Snapshot: object({
    snapshotID: text,
    names: texts,
    sandboxID: text,
    createdAt: instant,
    pool: count,
  }),

  Metric: object({
    timestamp: instant,
    timestampUnix: count,
    cpuCount: count,
    cpuUsedPct: amount,
    memUsed: amount,
    memTotal: amount,
    memCache: amount,
    diskUsed: amount,
    diskTotal: amount,
  }),
  MetricsOfMany: object({
    sandboxes: { type: "object", additionalProperties: ref("Metric") },
  }),
  LogEntry: object({
    timestamp: instant,
    level: { enum: ["debug", "info", "warn", "error"] },
    message: text,
    fields: textMap,
  }),
  Logs: object({ logs: { type: "array", items: ref("LogEntry") } }),
  LogsOfV1: object({
    logs: { type: "array", items: object({ timestamp: instant, line: text }) },
    logEntries: { type: "array", items: ref("LogEntry") },
  }),

  Template: object(template()),
  TemplateWithBuilds: object({
    ...template(),
    builds: {
      type: "array",
      items: object({
        buildID: { ...text, format: "uuid" },
        status: text,
        createdAt: instant,
        updatedAt: instant,
        finishedAt: instant,
        cpuCount: count,
        memoryMB: count,
        diskSizeMB: count,
        envdVersion: text,
      }),
    },
  }),
  TemplateAlias: object({ templateID: text, public: flag }),
  TemplateTag: object({ tag: text, buildID: { ...text, format: "uuid" }, createdAt: instant }),
  AssignedTags: object({ tags: texts, buildID: { ...text, format: "uuid" } }),

  Team: object({ teamID: { ...text, format: "uuid" }, name: text, apiKey: text, isDefault: flag }),
  ApiKey: object(key()),
  CreatedApiKey: object({ ...key(), key: text }),
  CreatedAccessToken: object({ ...key(), token: text }),
} as const satisfies Record<string, Schema>;

/** The name of a schema. */
export type SchemaName = keyof typeof schemas;

/** Refers to a schema by its name. */
export function ref(name: string): Schema {
  return { $ref: `#/components/schemas/${name}` };
}

/** The schema of an answer: no other properties; only those in `optional` may be missing. */
function object(properties: Record<string, Schema>, optional: readonly string[] = []): Schema {
  const required = Object.keys(properties).filter((name) => !optional.includes(name));
  return { type: "object", properties, required, additionalProperties: false };
}

/** The schema of a request's body. */
function body(properties: Record<string, Schema>, required: readonly string[] = []): Schema {
  return { type: "object", properties, required };
}

function listed(): Record<string, Schema> {
  return {
    sandboxID: text,
    templateID: text,
    alias: text,
    clientID: text,
    envdVersion: text,
    startedAt: instant,
    endAt: { ...instant, description: "Of one that sleeps: since when" },
    cpuCount: count,
    memoryMB: count,
    diskSizeMB: count,
    state: { enum: ["running", "paused"] },
    metadata: textMap,
    volumeMounts: emptyList,
  };
}

function template(): Record<string, Schema> {
  return {
    templateID: text,
    buildID: { ...text, format: "uuid" },
    names: texts,
    aliases: texts,
    public: flag,
    cpuCount: count,
    memoryMB: count,
    diskSizeMB: count,
    createdAt: instant,
    updatedAt: instant,
    createdBy: { type: "null" },
    lastSpawnedAt: { type: ["string", "null"], format: "date-time" },
    spawnCount: { ...count, description: "Sandboxes of it that exist now" },
    buildCount: count,
    envdVersion: text,
    buildStatus: text,
  };
}

function key(): Record<string, Schema> {
  return {
    id: { ...text, format: "uuid" },
    name: text,
    mask: object({
      prefix: text,
      valueLength: count,
      maskedValuePrefix: text,
      maskedValueSuffix: text,
    }),
    createdAt: instant,
    createdBy: { type: "null" },
    lastUsed: { type: "null" },
  };
}
