/** Whether the templates of a cache are as they were made: reads every file of each through. */
import { TorporError } from "@torpor/std";
import { TemplateStore, templatesFolder } from "@torpor/storage";

export interface TemplateState {
  readonly id: string;
  /** Undefined: every file is as it was. */
  readonly problem: TorporError | undefined;
}

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
