/**
 * What a reference to a template or a snapshot means: `name`, `name:tag` or an id, each with the team's
 * name and a slash before it or not.
 *
 * A name alone, or with the tag `default`, is left to the template store and the snapshots. Other tags
 * are kept here, all of them in memory.
 */
import { TorporError } from "@torpor/std";
import type { Database } from "./records/database.ts";
import { teamName } from "./team.ts";

export const defaultTag = "default";
const tagPattern = /^[a-z0-9_.-]{1,128}$/;
const uuidPattern = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

export interface Reference {
  readonly name: string;
  readonly tag: string;
}

export interface TemplateTag {
  readonly name: string;
  readonly tag: string;
  readonly targetId: string;
  readonly createdAtMs: number;
}

export class TemplateTags {
  readonly #database: Database;
  readonly #tags = new Map<string, TemplateTag>();

  private constructor(database: Database) {
    this.#database = database;
  }

  static async open(database: Database): Promise<TemplateTags> {
    const tags = new TemplateTags(database);
    for (const row of await database.selectFrom("template_tags").selectAll().execute()) {
      const { name, tag, target_id: targetId, created_at_ms: createdAtMs } = row;
      tags.#tags.set(`${name}:${tag}`, { name, tag, targetId, createdAtMs });
    }
    return tags;
  }

  /** The name or id that the template store or the snapshots know it by. @throws template.missing */
  resolve(text: string): string {
    const { name, tag } = parseReference(text.toLowerCase());
    if (tag === defaultTag) return name;
    const found = this.#tags.get(`${name}:${tag}`);
    if (found !== undefined) return found.targetId;
    throw new TorporError(
      "template.missing",
      `there is no template or snapshot "${name}" with the tag "${tag}"`,
      { advice: `See with \`torpor snapshot ls\` which tags there are, or leave out ":${tag}".` },
    );
  }

  of(targetId: string): readonly TemplateTag[] {
    return [...this.#tags.values()].filter((one) => one.targetId === targetId);
  }

  named(name: string): readonly TemplateTag[] {
    return [...this.#tags.values()].filter((one) => one.name === name);
  }

  /**
   * From now on the tag means this one.
   * @param alongside Written in the same transaction: both are there, or neither.
   */
  async assign(
    name: string,
    tag: string,
    targetId: string,
    alongside: (transaction: Database) => Promise<void> = () => Promise.resolve(),
  ): Promise<void> {
    const row = { name, tag, target_id: targetId, created_at_ms: Date.now() };
    const { created_at_ms } = row;
    await this.#database.transaction().execute(async (transaction) => {
      await alongside(transaction);
      await transaction
        .insertInto("template_tags")
        .values(row)
        .onConflict((conflict) =>
          conflict.columns(["name", "tag"]).doUpdateSet({ target_id: targetId, created_at_ms }),
        )
        .execute();
    });
    this.#tags.set(`${name}:${tag}`, { name, tag, targetId, createdAtMs: created_at_ms });
  }

  /** @throws template.missing when there is no such tag */
  async remove(name: string, tag: string): Promise<void> {
    if (!this.#tags.has(`${name}:${tag}`)) {
      throw new TorporError("template.missing", `"${name}" has no tag "${tag}"`, {
        advice: `See with \`GET /templates/${name}/tags\` which it has.`,
      });
    }
    await this.#database
      .deleteFrom("template_tags")
      .where("name", "=", name)
      .where("tag", "=", tag)
      .execute();
    this.#tags.delete(`${name}:${tag}`);
  }

  /** The template or snapshot is gone, so its tags mean nothing. */
  async forget(targetId: string): Promise<void> {
    for (const { name, tag } of this.of(targetId)) await this.remove(name, tag);
  }
}

/** @throws argument.invalid for what is no reference, template.missing for one of another team */
export function parseReference(text: string): Reference {
  const parts = text.split("/");
  const [team, rest = ""] = parts.length === 1 ? [teamName, parts[0]] : parts;
  const [name = "", tag = defaultTag, ...more] = rest.split(":");
  if (parts.length > 2 || more.length > 0 || name === "") {
    throw new TorporError("argument.invalid", `"${text}" does not name a template`);
  }
  if (team !== teamName) {
    throw new TorporError("template.missing", `there is no template "${text}"`, {
      advice: `Leave out what is before the slash: the one team here is "${teamName}".`,
    });
  }
  return { name, tag: parseTag(tag) };
}

/** What something shall be called; whether the name is free and well-formed is asked elsewhere. */
export function parseNewName(text: string): Reference {
  const own = `${teamName}/`;
  const bare = text.startsWith(own) ? text.slice(own.length) : text;
  const [name = "", ...tags] = bare.split(":");
  return { name, tag: tags.length === 0 ? defaultTag : parseTag(tags.join(":")) };
}

/** @throws argument.invalid */
export function parseTag(tag: string): string {
  if (tagPattern.test(tag) && !uuidPattern.test(tag)) return tag;
  throw new TorporError("argument.invalid", `"${tag}" is no tag: use a-z, 0-9, -, _ and .`);
}
