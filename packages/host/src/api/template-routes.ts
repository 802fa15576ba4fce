/**
 * Templates and their tags. A template here is one build that never changes: a name means the
 * newest template that took it, and tags name other ones.
 */
import { createHash } from "node:crypto";
import { envdVersion } from "@torpor/protocol";
import { type JsonObject, TorporError, optional, parseString } from "@torpor/std";
import type { Template } from "@torpor/storage";
import { type Reference, defaultTag, parseReference, parseTag } from "../template-tags.ts";
import type { ApiHost } from "./api-host.ts";
import { bodyOf, refuse, templateIdOf } from "./fields.ts";
import { pageQuery } from "./look-routes.ts";
import { type Listed, cutPage } from "./pages.ts";
import { type ApiAnswer, type ApiRequest, type Route, noContent } from "./route.ts";
import { toDate } from "./sandbox-shape.ts";

const tag = "templates";
const bytesPerMiB = 1024 * 1024;
const referenceCharsMax = 400;
/** LIMIT: tags in one request. */
const tagsMax = 100;

/** The target of a reference: a template, or a snapshot, which clients see as a template. */
interface Target {
  readonly id: string;
  readonly createdAtMs: number;
  /** The name that its tags belong to. */
  readonly name: string;
  readonly isSnapshot: boolean;
}

/** The routes for templates and tags. */
export function templateRoutes(host: ApiHost): readonly Route[] {
  const shared = { access: "team", tag } as const;
  return [
    {
      ...shared,
      method: "GET",
      path: "/templates",
      summary: "All templates",
      query: { teamID: { type: "string", description: "The one team, or absent" } },
      answers: { 200: { listOf: "Template" } },
      handle: async () => ({ status: 200, body: await toTemplates(host, await listAll(host)) }),
    },
    {
      ...shared,
      method: "GET",
      path: "/v2/templates",
      summary: "Templates, oldest first; X-Next-Token leads to the next page",
      query: pageQuery,
      answers: { 200: { listOf: "Template" } },
      handle: async (request) => {
        const { entries, headers } = cutPage(await listAll(host), request);
        return { status: 200, body: await toTemplates(host, entries), headers };
      },
    },
    {
      ...shared,
      method: "GET",
      path: "/templates/aliases/{alias}",
      summary: "Whether there is a template or snapshot of this name",
      answers: { 200: "TemplateAlias" },
      handle: async (request) => {
        const { id } = await targetOf(host, request.params["alias"] ?? "");
        return { status: 200, body: { templateID: id, public: false } };
      },
    },
    {
      ...shared,
      method: "GET",
      path: "/templates/{templateID}",
      summary: "One template with its build",
      answers: { 200: "TemplateWithBuilds" },
      handle: (request) => look(host, templateIdOf(request)),
    },
    {
      ...shared,
      method: "DELETE",
      path: "/templates/{templateID}",
      summary: "Delete a template that nothing stands upon, or a snapshot",
      answers: { 204: null },
      handle: (request) => remove(host, templateIdOf(request)),
    },
    {
      ...shared,
      method: "GET",
      path: "/templates/{templateID}/tags",
      summary: "The tags of a template's name",
      answers: { 200: { listOf: "TemplateTag" } },
      handle: (request) => listTags(host, templateIdOf(request)),
    },
    {
      ...shared,
      method: "POST",
      path: "/templates/tags",
      summary: "Let tags mean what a template or snapshot is now",
      body: { schema: "AssignTags", required: true },
      answers: { 201: "AssignedTags" },
      handle: (request) => assignTags(host, request),
    },
    {
      ...shared,
      method: "DELETE",
      path: "/templates/tags",
      summary: "Take tags away; `default` stays",
      body: { schema: "RemoveTags", required: true },
      answers: { 204: null },
      handle: (request) => removeTags(host, request),
    },
  ];
}

interface ListedTemplate extends Listed {
  readonly template: Template;
}

/** All templates that can be opened, oldest first. */
async function listAll({ templates }: ApiHost): Promise<readonly ListedTemplate[]> {
  const opened = await Promise.all(
    (await templates.ids()).map(async (id) => {
      const template = await templates.open(id).catch(() => undefined);
      if (template === undefined) return [];
      return [{ id, createdAtMs: template.manifest.createdAtMs, template }];
    }),
  );
  const byAge = (a: Listed, b: Listed): number =>
    a.createdAtMs - b.createdAtMs || (a.id < b.id ? -1 : 1);
  return opened.flat().sort(byAge);
}

async function toTemplates(
  host: ApiHost,
  listed: readonly ListedTemplate[],
): Promise<readonly JsonObject[]> {
  return await Promise.all(listed.map(({ template }) => toTemplate(host, template)));
}

async function look(host: ApiHost, reference: string): Promise<ApiAnswer> {
  const template = await host.templates.open(host.tags.resolve(reference));
  const shape = await toTemplate(host, template);
  return { status: 200, body: { ...shape, builds: [toBuild(template)] } };
}

async function remove({ sandboxes }: ApiHost, reference: string): Promise<ApiAnswer> {
  if (sandboxes.snapshots.find(reference) === undefined) await sandboxes.removeTemplate(reference);
  else await sandboxes.removeSnapshot(reference);
  return noContent;
}

async function listTags(host: ApiHost, reference: string): Promise<ApiAnswer> {
  const { id, name, createdAtMs } = await targetOf(host, reference);
  const tagged = host.tags.named(name).map((one) => ({
    tag: one.tag,
    buildID: buildIdOf(one.targetId),
    createdAt: toDate(one.createdAtMs),
  }));
  const own = { tag: defaultTag, buildID: buildIdOf(id), createdAt: toDate(createdAtMs) };
  return { status: 200, body: [own, ...tagged] };
}

async function assignTags(host: ApiHost, request: ApiRequest): Promise<ApiAnswer> {
  const body = bodyOf(request);
  const target = await targetOf(host, parseString(body["target"], "target", referenceCharsMax));
  const tags = parseTags(body["tags"]);
  if (tags.includes(defaultTag) && target.isSnapshot) {
    refuse("the default tag of a snapshot is the snapshot that took its name last");
  }
  for (const one of tags) {
    if (one === defaultTag) await host.templates.assignName(target.name, target.id);
    else await host.tags.assign(target.name, one, target.id);
  }
  return { status: 201, body: { tags, buildID: buildIdOf(target.id) } };
}

async function removeTags({ tags }: ApiHost, request: ApiRequest): Promise<ApiAnswer> {
  const body = bodyOf(request);
  const { name } = referenceOf(parseString(body["name"], "name", referenceCharsMax));
  const unwanted = parseTags(body["tags"]);
  if (unwanted.includes(defaultTag)) {
    throw new TorporError("argument.invalid", `the tag "${defaultTag}" cannot be removed`);
  }
  for (const one of unwanted) await tags.remove(name, one);
  return noContent;
}

/** @throws template.missing, argument.invalid */
async function targetOf(host: ApiHost, reference: string): Promise<Target> {
  const { name } = referenceOf(reference);
  const snapshot = host.sandboxes.snapshots.find(reference);
  if (snapshot !== undefined) {
    const { id, createdAtMs } = snapshot;
    return { id, createdAtMs, name: id === name ? (snapshot.name ?? id) : name, isSnapshot: true };
  }
  const { manifest } = await host.templates.open(host.tags.resolve(reference));
  const { templateId: id, createdAtMs } = manifest;
  return { id, createdAtMs, name: id === name ? manifest.name : name, isSnapshot: false };
}

function referenceOf(text: string): Reference {
  return parseReference(text.toLowerCase());
}

async function toTemplate(host: ApiHost, { manifest }: Template): Promise<JsonObject> {
  const { templateId, createdAtMs, machine, diskBytes } = manifest;
  const names = await host.templates.namesOf(templateId);
  const spawned = host.sandboxes.all().filter(({ record }) => record.templateId === templateId);
  const lastMs = Math.max(...spawned.map(({ record }) => record.createdAtMs), 0);
  return {
    templateID: templateId,
    buildID: buildIdOf(templateId),
    names,
    aliases: names,
    public: false,
    cpuCount: machine.vcpuCount,
    memoryMB: machine.memoryMiB,
    diskSizeMB: Math.round(diskBytes / bytesPerMiB),
    createdAt: toDate(createdAtMs),
    updatedAt: toDate(createdAtMs),
    createdBy: null,
    lastSpawnedAt: lastMs === 0 ? null : toDate(lastMs),
    spawnCount: spawned.length,
    buildCount: 1,
    envdVersion,
    buildStatus: "ready",
  };
}

function toBuild({ manifest }: Template): JsonObject {
  const { templateId, createdAtMs, machine, diskBytes } = manifest;
  const createdAt = toDate(createdAtMs);
  return {
    buildID: buildIdOf(templateId),
    status: "ready",
    createdAt,
    updatedAt: createdAt,
    finishedAt: createdAt,
    cpuCount: machine.vcpuCount,
    memoryMB: machine.memoryMiB,
    diskSizeMB: Math.round(diskBytes / bytesPerMiB),
    envdVersion,
  };
}

/**
 * The build id of a template. A template has one build, and clients expect a UUID for it: always
 * the same one, derived from the template's id.
 */
function buildIdOf(templateId: string): string {
  const hex = createHash("sha256").update(templateId).digest("hex");
  const parts = [hex.slice(0, 8), hex.slice(8, 12), `8${hex.slice(13, 16)}`];
  return [...parts, `8${hex.slice(17, 20)}`, hex.slice(20, 32)].join("-");
}

function parseTags(value: unknown): readonly string[] {
  const tags = optional(value, parseList, "tags") ?? [];
  if (tags.length > 0 && tags.length <= tagsMax) return tags;
  throw new TorporError("argument.invalid", `tags must be a list of 1 to ${tagsMax}`);
}

function parseList(value: unknown, what: string): readonly string[] {
  if (!Array.isArray(value)) throw new TorporError("argument.invalid", `${what} must be a list`);
  return value.map((one) => parseTag(parseString(one, what, referenceCharsMax).toLowerCase()));
}
