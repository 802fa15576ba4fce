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
  readonly #known = new Map<string, TemplateSize>();

  constructor(templates: Pick<TemplateStore, "open">) {
    this.#templates = templates;
  }

  async of(templateId: string): Promise<TemplateSize> {
    const known = this.#known.get(templateId);
    if (known !== undefined) return known;
    const template = await this.#templates.open(templateId).catch(() => undefined);
    if (template === undefined) return unknownSize;
    const { machine, diskBytes } = template.manifest;
    const { vcpuCount, memoryMiB } = machine;
    const size = { vcpuCount, memoryMiB, diskMiB: Math.round(diskBytes / bytesPerMiB) };
    this.#known.set(templateId, size);
    return size;
  }
}
