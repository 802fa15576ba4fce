/**
 * `torpor doctor`: can this machine run sandboxes, and if not, what should the user do? Needs no
 * daemon.
 */
import type { Command } from "commander";
import { TemplateStore, defaultKeyFile, templatesFolder } from "@torpor/storage";
import type { Session } from "../session.ts";

/** Adds `torpor doctor` to the program. */
export function addDoctor(program: Command, session: Session): void {
  program
    .command("doctor")
    .description("check this machine and say how to fix what is wrong")
    .option("--json", "print the checks as JSON")
    .action(async () => {
      session.exitCode = await doctor(session);
    });
}

async function doctor(session: Session): Promise<number> {
  const { output } = session;
  // Loaded here: the module is large, and few verbs need it.
  const { runDoctor } = await import("@torpor/setup");
  const templates = new TemplateStore(templatesFolder(session.cacheFolder));
  const checks = await output.busy(
    "checking this machine",
    runDoctor({
      stateDir: session.stateFolder,
      cacheDir: session.cacheFolder,
      keyFile: defaultKeyFile(session.env),
      listTemplates: () => templates.names(),
    }),
  );
  const failed = checks.filter(({ ok, required }) => required && !ok).length;
  if (session.asJson) {
    output.printJson(checks);
    return failed === 0 ? 0 : 1;
  }
  const nameCells = Math.max(...checks.map(({ name }) => name.length));
  for (const check of checks) {
    const mark = check.ok || check.required ? output.mark(check.ok) : "!";
    output.print(`${mark} ${check.name.padEnd(nameCells)}  ${check.detail}`);
    if (!check.ok) output.print(`  ${" ".repeat(nameCells)}  fix: ${check.fix}`);
  }
  output.print("");
  if (failed === 0) output.print("This machine can run sandboxes.");
  else output.print(`${failed === 1 ? "1 check" : `${failed} checks`} failed.`);
  return failed === 0 ? 0 : 1;
}
