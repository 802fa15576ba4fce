/**
 * Completes `dist/` into the folder that is published: `npm run build && npm publish ./dist`.
 *
 * In the workspace, `exports` names the TypeScript source, which Node runs as it is. Node refuses to
 * do that below `node_modules`, and npm does not apply `publishConfig.exports`, so the published
 * manifest is another file. With `--refuse` this ends with an error: it guards the package's own
 * folder against being published by mistake.
 */
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";

if (process.argv.includes("--refuse")) {
  process.stderr.write("Publish the built folder: npm run build && npm publish ./dist\n");
  process.exit(1);
}

const here = new URL("./", import.meta.url);
const dist = new URL("dist/", here);

const manifest = /** @type {Record<string, unknown>} */ (
  JSON.parse(readFileSync(new URL("package.json", here), "utf8"))
);
delete manifest["scripts"];
manifest["exports"] = { ".": { types: "./index.d.ts", default: "./index.js" } };

writeFileSync(new URL("package.json", dist), `${JSON.stringify(manifest, null, 2)}\n`);
copyFileSync(new URL("README.md", here), new URL("README.md", dist));
copyFileSync(new URL("../../LICENSE", here), new URL("LICENSE", dist));
