/** Makes JavaScript of all TypeScript in a checkout, line for line, for load-stripped.mjs. */
import { glob, mkdir, readFile, writeFile } from "node:fs/promises";
import { stripTypeScriptTypes } from "node:module";
import { dirname, join } from "node:path";

const sources = ["packages/*/src/**/*.ts", "{test,tools,bench}/**/*.ts"];

export async function stripCheckout(checkout: string, target: string): Promise<void> {
  for await (const file of glob(sources, { cwd: checkout, exclude: ["**/*.d.ts"] })) {
    const path = join(target, file);
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, stripTypeScriptTypes(await readFile(join(checkout, file), "utf8")));
  }
}
