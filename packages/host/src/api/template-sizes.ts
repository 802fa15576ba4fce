/** How large the machine of a template is, remembered because a template never changes. */
import type { TemplateStore } from "@torpor/storage";

const bytesPerMiB = 1024 * 1024;
/** Of a template whose description cannot be read: a list goes on without it. */
const unknownSize: TemplateSize = { vcpuCount: 0, memoryMiB: 0, diskMiB: 0 };

export interface TemplateSize {
  readonly vcpuCount: number;
  readonly memoryMiB: number;
  readonly diskMiB: number;
}

export class TemplateSizes {
  readonly #templates: Pick<TemplateStore, "open">;
  readonly #known = new Map<string, Promise<TemplateSize>>();

  constructor(templates: Pick<TemplateStore, "open">) {
    this.#templates = templates;
  }

  /** Never fails; a whole page asks at once. */
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
