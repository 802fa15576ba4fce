/**
 * Templates: booted guests at rest, from which every sandbox is restored.
 *
 * A template is a folder that is staged, finished and renamed into place, and never changed again:
 * sandboxes map its memory and read its disk for as long as they live.
 */
import { chmod, mkdir, readFile, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { TorporError, flushFolder, renameDurably, systemCode, writeFileDurably } from "@torpor/std";
import { contentSha256, verifyChecksums, writeChecksums } from "./checksums.ts";
import { type TemplateManifest, readTemplateManifest, writeManifest } from "./manifest.ts";

/** Matches names of templates, and of snapshots that sandboxes are made from. */
export const templateNamePattern = /^[a-z0-9][a-z0-9_-]{0,127}$/;
/** Matches ids of templates, and of snapshots that sandboxes are made from. */
export const templateIdPattern = /^[a-z0-9]{20}$/;
const stagedSuffix = ".staged";

/** A published template: its manifest and the paths of its files. */
export interface Template {
  readonly manifest: TemplateManifest;
  readonly kernelPath: string;
  readonly initramfsPath: string;
  readonly diskPath: string;
  readonly memoryPath: string;
  readonly deviceStatePath: string;
}

/** A template in the making. */
export interface StagedTemplate extends AsyncDisposable {
  readonly files: Omit<Template, "manifest">;
  publish(manifest: TemplateManifest): Promise<void>;
}

/** Reads, publishes and names the templates of one cache folder. */
export class TemplateStore {
  readonly #folder: string;
  /** Ids of the templates that were damaged when they were last read through. */
  readonly #damaged = new Set<string>();

  constructor(templatesFolder: string) {
    this.#folder = templatesFolder;
  }

  /** Opens a template by id or by name. @throws template.missing, snapshot.corrupt */
  async open(reference: string): Promise<Template> {
    const templateId = templateIdPattern.test(reference)
      ? reference
      : await this.#resolve(reference);
    const folder = join(this.#folder, templateId);
    try {
      return { manifest: await readTemplateManifest(folder), ...filesOf(folder) };
    } catch (cause) {
      const isMissing = TorporError.is(cause) && cause.code === "template.missing";
      throw isMissing ? noTemplate(reference, cause) : cause;
    }
  }

  /**
   * Distinguishes builds of a template: a boot is not reproducible, so a template that is made
   * again from the same inputs has the same id and other memory. Undefined for a template without
   * checksums.
   */
  async contentOf(templateId: string): Promise<string | undefined> {
    return await contentSha256(join(this.#folder, templateId));
  }

  /**
   * Reads every file of a template through, which takes seconds: every guest restored from it
   * trusts it.
   * @throws snapshot.corrupt naming the file that has changed.
   */
  async verify(templateId: string): Promise<void> {
    try {
      await verifyChecksums(join(this.#folder, templateId));
      this.#damaged.delete(templateId);
    } catch (cause) {
      if (TorporError.is(cause) && cause.code === "snapshot.corrupt") this.#damaged.add(templateId);
      throw cause;
    }
  }

  /**
   * Refuses a template that is known to be damaged, after verifying it again: it may have been
   * repaired.
   * @throws snapshot.corrupt
   */
  async assertWhole(templateId: string): Promise<void> {
    if (this.#damaged.has(templateId)) await this.verify(templateId);
  }

  /** Ids of all templates, in order, including those without a name. */
  async ids(): Promise<readonly string[]> {
    const entries = await readdir(this.#folder).catch(() => []);
    return entries.filter((name) => templateIdPattern.test(name)).sort();
  }

  /** Names of all templates, in order. */
  async names(): Promise<readonly string[]> {
    await mkdir(this.#namesFolder, { recursive: true });
    const entries = await readdir(this.#namesFolder);
    // A power cut may leave a half-assigned name.
    return entries.filter((name) => templateNamePattern.test(name)).sort();
  }

  /** Makes `name` mean this template; sandboxes made from another keep theirs. */
  async assignName(name: string, templateId: string): Promise<void> {
    await mkdir(this.#namesFolder, { recursive: true });
    await writeFileDurably(join(this.#namesFolder, name), templateId);
  }

  /** The names that mean this template, in order. */
  async namesOf(templateId: string): Promise<readonly string[]> {
    const names = await this.names();
    const ids = await Promise.all(names.map((name) => this.#resolve(name).catch(() => undefined)));
    return names.filter((_name, index) => ids[index] === templateId);
  }

  /** Removes a template with its names. The caller ensures that nothing is built on it. */
  async remove(templateId: string): Promise<void> {
    for (const name of await this.namesOf(templateId)) {
      await rm(join(this.#namesFolder, name), { force: true });
    }
    const folder = join(this.#folder, templateId);
    // Nothing may find half a template under its id.
    await renameDurably(folder, `${folder}${stagedSuffix}`);
    await rm(`${folder}${stagedSuffix}`, { recursive: true, force: true });
  }

  /** Makes a new folder to build a template in; disposing it before `publish` leaves no trace. */
  async stage(templateId: string): Promise<StagedTemplate> {
    const folder = join(this.#folder, templateId);
    const staged = `${folder}${stagedSuffix}`;
    await rm(staged, { recursive: true, force: true });
    await mkdir(staged, { recursive: true, mode: 0o700 });
    return {
      files: filesOf(staged),
      publish: (manifest) => this.#publish(staged, folder, manifest),
      [Symbol.asyncDispose]: () => rm(staged, { recursive: true, force: true }),
    };
  }

  async #publish(staged: string, folder: string, manifest: TemplateManifest): Promise<void> {
    const files = filesOf(staged);
    for (const path of Object.values(files)) await chmod(path, 0o400);
    await writeChecksums(staged, Object.values(files));
    await writeManifest(staged, manifest);
    await flushFolder(staged);
    await renameDurably(staged, folder);
  }

  get #namesFolder(): string {
    return join(this.#folder, "names");
  }

  async #resolve(name: string): Promise<string> {
    if (!templateNamePattern.test(name)) {
      throw new TorporError(
        "argument.invalid",
        `"${name}" is no template name: use a-z, 0-9, - and _`,
      );
    }
    try {
      return (await readFile(join(this.#namesFolder, name), "utf8")).trim();
    } catch (cause) {
      if (systemCode(cause) !== "ENOENT") throw TorporError.from(cause, "storage.failed");
      throw noTemplate(name, cause);
    }
  }
}

function noTemplate(reference: string, cause: unknown): TorporError {
  return new TorporError("template.missing", `there is no template "${reference}"`, { cause });
}

function filesOf(folder: string): Omit<Template, "manifest"> {
  return {
    kernelPath: join(folder, "vmlinuz"),
    initramfsPath: join(folder, "initramfs"),
    diskPath: join(folder, "disk.raw"),
    memoryPath: join(folder, "memory.img"),
    deviceStatePath: join(folder, "device.state"),
  };
}
