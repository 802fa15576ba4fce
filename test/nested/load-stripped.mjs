/**
 * Gives Node the files of this checkout as JavaScript that was made of them before: its own reader of
 * TypeScript is WebAssembly, which takes minutes for each process where everything is emulated.
 *
 *     TORPOR_STRIPPED=FOLDER NODE_OPTIONS="--import=…/load-stripped.mjs" node …
 */
/* oxlint-disable typescript/no-unsafe-argument, typescript/no-unsafe-assignment, typescript/no-unsafe-call, typescript/no-unsafe-member-access, typescript/no-unsafe-return -- plain JavaScript has no types here */
import { readFileSync } from "node:fs";
import { registerHooks } from "node:module";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const checkout = join(import.meta.dirname, "../..");
const stripped = process.env["TORPOR_STRIPPED"];

registerHooks({
  load(url, context, nextLoad) {
    const isOurs = stripped !== undefined && url.startsWith("file:") && url.endsWith(".ts");
    if (!isOurs) return nextLoad(url, context);
    const source = readFileSync(join(stripped, relative(checkout, fileURLToPath(url))));
    return { format: "module", source, shortCircuit: true };
  },
});
