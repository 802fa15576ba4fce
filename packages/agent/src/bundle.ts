/**
 * Builds the agent into one file for the guest. The template build on the host calls this.
 *
 * The native library is not bundled, because it contains a shared object: copy the folders named by
 * `nativeFolders` into a `node_modules` folder beside the file.
 */
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

/** One folder to copy beside the bundle. */
export interface NativeFolder {
  /** Absolute path on the host. */
  readonly from: string;
  /** Path relative to the folder of the bundle. */
  readonly to: string;
  /** The files needed, relative to `from`; all others may be left out. */
  readonly files: readonly string[];
}

/** Holds modules for programs in the guest, in source: `restore.mjs` and `torpor_restore.py`. */
export const guestModulesFolder = fileURLToPath(new URL("../guest", import.meta.url));

/** Writes the bundled agent to `outFile`. @throws Error with the messages of the bundler. */
export async function bundleAgent(outFile: string): Promise<void> {
  await build({
    entryPoints: [fileURLToPath(new URL("main.ts", import.meta.url))],
    outfile: outFile,
    bundle: true,
    platform: "node",
    format: "esm",
    target: "esnext",
    external: ["koffi"],
    // Whitespace only: names stay readable in a stack trace from a guest.
    minifyWhitespace: true,
    minifySyntax: true,
    legalComments: "none",
    logLevel: "silent",
  });
}

/** The folders the bundle loads modules from at run time; besides them it needs Node only. */
export function nativeFolders(): readonly NativeFolder[] {
  const koffi = dirname(fileURLToPath(import.meta.resolve("koffi")));
  return [
    {
      from: koffi,
      to: "node_modules/koffi",
      files: [
        "LICENSE.txt",
        "package.json",
        "index.js",
        "src/koffi/index.js",
        "src/koffi/src/static.js",
      ],
    },
    {
      from: join(koffi, "..", "@koromix", "koffi-linux-x64"),
      to: "node_modules/@koromix/koffi-linux-x64",
      files: ["package.json", "index.js", "linux_x64/koffi.node"],
    },
  ];
}
