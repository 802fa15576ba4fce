/**
 * References to a template or a snapshot: `name`, `name:tag` or an id, each with or without the
 * team's name and a slash before it.
 *
 * The template store and the snapshots resolve a name alone, or one with the tag `default`. All
 * other tags are kept here, in memory and in the database.
 */
import { TorporError } from "@torpor/std";
import type { Database } from "./records/database.ts";
import { teamName } from "./team.ts";

/** The tag of a reference that names none. */
export const defaultTag = "default";
const tagPattern = /^[a-z0-9_.-]{1,128}$/;
const uuidPattern = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** A name and its tag. */
export interface Reference {
  readonly name: string;
  readonly tag: string;
}

/** A tag of a name, and the template or snapshot that it refers to. */
export interface TemplateTag {
  readonly name: string;
  readonly tag: string;
  /** Id of a template or a snapshot. */
  readonly targetId: string;
  readonly createdAtMs: number;
}

/** All tags but `default`, in memory and in the database. */
export class TemplateTags {
  readonly #database: Database;
  readonly #tags = new Map<string, TemplateTag>();

  private constructor(database: Database) {
    this.#database = database;
  }

  /** Reads all tags from the database. */
  static async open(database: Database): Promise<TemplateTags> {
    const tags = new TemplateTags(database);
    for (const row of await database.selectFrom("template_tags").selectAll().execute()) {
      const { name, tag, target_id: targetId, created_at_ms: createdAtMs } = row;
      tags.#tags.set(`${name}:${tag}`, { name, tag, targetId, createdAtMs });
    }
    return tags;
  }

  /**
   * The name or id by which the template store or the snapshots know the target.
   * @throws template.missing, argument.invalid
   */
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

  /** The tags of this template or snapshot. */
  of(targetId: string): readonly TemplateTag[] {
    return [...this.#tags.values()].filter((one) => one.targetId === targetId);
  }

  /** The tags of this name. */
  named(name: string): readonly TemplateTag[] {
    return [...this.#tags.values()].filter((one) => one.name === name);
  }

  /**
   * Makes the tag refer to this target from now on.
   * @param alongside Writes in the same transaction: both take effect, or neither.
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

  /** Removes a tag. @throws template.missing when it does not exist */
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

  /** Removes the tags of a template or snapshot that is gone. */
  async forget(targetId: string): Promise<void> {
    for (const { name, tag } of this.of(targetId)) await this.remove(name, tag);
  }
}

/**
 * Parses a reference.
 * @throws argument.invalid if malformed, template.missing for another team's
 */
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

/**
 * Parses the name for something new. Whether the name is free and well-formed is checked elsewhere.
 * @throws argument.invalid for an invalid tag
 */
export function parseNewName(text: string): Reference {
  const own = `${teamName}/`;
  const bare = text.startsWith(own) ? text.slice(own.length) : text;
  const [name = "", ...tags] = bare.split(":");
  return { name, tag: tags.length === 0 ? defaultTag : parseTag(tags.join(":")) };
}

/** Returns the tag if it is valid. @throws argument.invalid */
export function parseTag(tag: string): string {
  if (tagPattern.test(tag) && !uuidPattern.test(tag)) return tag;
  throw new TorporError("argument.invalid", `"${tag}" is no tag: use a-z, 0-9, -, _ and .`);
}
