/** The size of each template's machine, cached because a template never changes. */
import type { TemplateStore } from "@torpor/storage";

const bytesPerMiB = 1024 * 1024;
/** Size of a template whose manifest cannot be read, so that a list can still be answered. */
const unknownSize: TemplateSize = { vcpuCount: 0, memoryMiB: 0, diskMiB: 0 };

/** The size of a machine. */
export interface TemplateSize {
  readonly vcpuCount: number;
  readonly memoryMiB: number;
  readonly diskMiB: number;
}

/** Reads sizes of templates and caches them. */
export class TemplateSizes {
  readonly #templates: Pick<TemplateStore, "open">;
  readonly #known = new Map<string, Promise<TemplateSize>>();

  constructor(templates: Pick<TemplateStore, "open">) {
    this.#templates = templates;
  }

  /** Never rejects: an unreadable template has size 0. Concurrent calls share one read. */
  of(templateId: string): Promise<TemplateSize> {
    const size = this.#known.get(templateId) ?? this.#read(templateId);
    this.#known.set(templateId, size);
    return size;
  }

  async #read(templateId: string): Promise<TemplateSize> {
    try {
      const { machine, diskBytes } = (await this.#templates.open(templateId)).manifest;
      const { vcpuCount, memoryMiB } = machine;
      return { vcpuCount, memoryMiB, diskMiB: Math.round(diskBytes / bytesPerMiB) };
    } catch {
      this.#known.delete(templateId);
      return unknownSize;
    }
  }
}
