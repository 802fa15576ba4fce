/**
 * Checks that the templates are still as they were made: each is read through once in a daemon's
 * life, a while after the daemon starts and one after the other, because a wake must not wait for
 * seconds of reading. Once damage is known nothing is woken from that template
 * (`TemplateStore.assertWhole`); until then damage goes unnoticed.
 */
import type { Logger } from "@torpor/std";
import type { TemplateStore } from "@torpor/storage";

/** Long enough for a user who started the daemon to use a sandbox first. */
const firstLookMs = 60_000;

/**
 * Verifies every template once, in the background. Disposing the result ends the check after the
 * template that is being read.
 */
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
        // A template may have been removed in the meantime.
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
