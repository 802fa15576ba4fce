/**
 * Snapshots that sandboxes are created from. Clients see them as templates, and delete them by the
 * templates' route.
 */
import { TorporError, optional, parseBoolean, parseString } from "@torpor/std";
import { idOf } from "../idempotency.ts";
import type { SnapshotRecord } from "../records/snapshot-records.ts";
import type { ApiHost } from "./api-host.ts";
import { bodyOrNone, queryText, refuse, sandboxIdOf } from "./fields.ts";
import { pageQuery } from "./look-routes.ts";
import { cutPage } from "./pages.ts";
import { type ApiAnswer, type ApiRequest, type Route, commandOf } from "./route.ts";
import { toSnapshot } from "./sandbox-shape.ts";

const tag = "snapshots";
const nameCharsMax = 400;

/** The routes that take and list snapshots. */
export function snapshotRoutes(host: ApiHost): readonly Route[] {
  return [
    {
      method: "POST",
      path: "/sandboxes/{sandboxID}/snapshots",
      access: "team",
      tag,
      summary: "Take a snapshot that others are made from; the sandbox goes on",
      body: { schema: "SnapshotRequest", required: false },
      onRepeat: "asKeyed",
      answers: { 201: "Snapshot" },
      handle: (request) => take(host, request),
    },
    {
      method: "GET",
      path: "/snapshots",
      access: "team",
      tag,
      summary: "Snapshots, oldest first; X-Next-Token leads to the next page",
      query: {
        sandboxID: { type: "string", description: "Only those of this sandbox" },
        name: { type: "string", description: "Only those of this name" },
        ...pageQuery,
      },
      answers: { 200: { listOf: "Snapshot" } },
      handle: (request) => list(host, request),
    },
  ];
}

async function take(host: ApiHost, request: ApiRequest): Promise<ApiAnswer> {
  const body = bodyOrNone(request);
  const name = optional(body["name"], parseName, "name") ?? null;
  if (!(optional(body["memory"], parseBoolean, "memory") ?? true)) {
    refuse("a snapshot always keeps the memory here: memory: false is not supported");
  }
  const sandboxId = sandboxIdOf(request);
  const command = commandOf(request);
  const { made } = await host.idempotency.once(request.keyed, async (decided) => {
    const id = await host.sandboxes.takeSnapshot(sandboxId, name, command, decided);
    return { made: [id], timings: [] };
  });
  return { status: 201, body: toMade(host, idOf(made)) };
}

/**
 * The snapshot as it is now.
 * @throws template.missing if it is gone by now, as a repeat may find
 */
function toMade(host: ApiHost, id: string): ReturnType<typeof toSnapshot> {
  const record = host.sandboxes.snapshots.find(id);
  if (record !== undefined) return shapeOf(host, record);
  throw new TorporError(
    "template.missing",
    `snapshot ${id} was taken by this request, and is gone`,
    {
      effect: "done",
      advice: "Take another, with a new Idempotency-Key.",
    },
  );
}

function list(host: ApiHost, request: ApiRequest): ApiAnswer {
  const sandboxId = queryText(request, "sandboxID");
  const name = queryText(request, "name");
  const found = host.sandboxes.snapshots.all().filter((one) => {
    if (sandboxId !== undefined && sandboxId !== one.sandboxId) return false;
    return name === undefined || namesOf(host, one).some((own) => own.split(":")[0] === name);
  });
  const { entries, headers } = cutPage(found, request);
  return { status: 200, body: entries.map((one) => shapeOf(host, one)), headers };
}

function shapeOf(host: ApiHost, record: SnapshotRecord): ReturnType<typeof toSnapshot> {
  const tagged = host.tags.of(record.id).map((one) => `${one.name}:${one.tag}`);
  return toSnapshot(record, tagged);
}

function namesOf(host: ApiHost, { id, name }: SnapshotRecord): readonly string[] {
  return [...(name === null ? [] : [name]), ...host.tags.of(id).map((one) => one.name)];
}

function parseName(value: unknown, what: string): string {
  return parseString(value, what, nameCharsMax);
}
