/**
 * Whether the templates are still as they were made: each is read through once in a daemon's life, a
 * while after its start and one after the other, because a wake must not wait for seconds of reading.
 * Once damage is known nothing is woken from it (`TemplateStore.assertWhole`); until then it is not seen.
 */
import type { Logger } from "@torpor/std";
import type { TemplateStore } from "@torpor/storage";

/** Long enough for whoever has started the daemon in order to use a sandbox. */
const firstLookMs = 60_000;

/** Disposing it ends the check after the template that is being read. */
export function checkTemplates(
  templates: Pick<TemplateStore, "ids" | "verify">,
  log: Logger,
  afterMs = firstLookMs,
): AsyncDisposable {
  let isOver = false;
  let work = Promise.resolve();
  const checkAll = async (): Promise<void> => {
    for (const id of await templates.ids()) {
      if (isOver) return;
      try {
        await templates.verify(id);
      } catch (cause) {
        // One may be removed meanwhile.
        if ((await templates.ids()).includes(id)) log.error("a template is damaged", { id, cause });
      }
    }
  };
  const timer = setTimeout(() => {
    work = checkAll();
  }, afterMs).unref();
  return {
    [Symbol.asyncDispose]: async () => {
      isOver = true;
      clearTimeout(timer);
      await work;
    },
  };
}
