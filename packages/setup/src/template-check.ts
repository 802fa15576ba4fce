/** Checks the templates of a cache for damage: reads every file of each through. */
import { TorporError } from "@torpor/std";
import { TemplateStore, templatesFolder } from "@torpor/storage";

/** A template, and whether its files match their checksums. */
export interface TemplateState {
  readonly id: string;
  /** Undefined if every file is intact. */
  readonly problem: TorporError | undefined;
}

/** Checks all templates of a cache; takes seconds for each. */
export async function inspectTemplates(cacheFolder: string): Promise<readonly TemplateState[]> {
  const store = new TemplateStore(templatesFolder(cacheFolder));
  const states: TemplateState[] = [];
  for (const id of await store.ids()) {
    const problem = await store.verify(id).then(
      () => undefined,
      (cause: unknown) => TorporError.from(cause, "storage.failed"),
    );
    states.push({ id, problem });
  }
  return states;
}
