/**
 * The options with which a pager starts, as JSON in the run's folder, where a later daemon finds
 * the files from which the VM was loaded.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  type JsonObject,
  optional,
  parseInteger,
  parseJson,
  parseObject,
  parseOneOf,
  parseString,
} from "@torpor/std";
import type { StackedLayer } from "@torpor/storage";
import type { SavedMemoryFiles } from "./page-source.ts";
import { type PrefetchMode, prefetchModes } from "./prefetch.ts";

/** Options of one pager. */
export interface PagerOptions {
  /** An existing folder for this run of the VM alone: the line to the daemon, and the log. */
  readonly runFolder: string;
  /** The socket to which the VMM will connect; made by the pager. */
  readonly vmSocketPath: string;
  /** The VMM's user, if the VMM runs as a user of its own. */
  readonly vmUserId?: number;
  /** How long the VMM may take to connect. */
  readonly connectBudgetMs: number;
  readonly memory: SavedMemoryFiles;
  readonly prefetch: PrefetchMode;
  /**
   * A fault also brings the 256 KiB around it: fewer faults, but memory that the guest may never
   * use. Not while touches are recorded.
   */
  readonly wideFaults?: boolean;
  /**
   * The working set that an earlier wake recorded; the pager continues without a missing or damaged
   * one.
   */
  readonly workingSetPath?: string;
  /** Where this wake records its own working set, when the daemon orders it. */
  readonly recordPath?: string;
}

const runFiles = { options: "pager.json", line: "pager.line", log: "pager.log" } as const;

/** Path of the socket between daemon and pager. */
export function linePath(runFolder: string): string {
  return join(runFolder, runFiles.line);
}

/** Path of the pager's log, whose last line says how the pager ended. */
export function logPath(runFolder: string): string {
  return join(runFolder, runFiles.log);
}

/** Writes the options into the run's folder. @throws system error */
export function writeOptions(options: PagerOptions): void {
  const path = join(options.runFolder, runFiles.options);
  writeFileSync(path, JSON.stringify(options), { mode: 0o600 });
}

/**
 * Reads the options of a run.
 * @throws argument.invalid; system error ENOENT for a folder in which no pager was started
 */
export function readOptions(runFolder: string): PagerOptions {
  const path = join(runFolder, runFiles.options);
  return parseOptions(parseJson(readFileSync(path, "utf8"), path));
}

/**
 * Checks only types, as our own daemon wrote the file. A layer's digest is checked when the layer
 * is opened.
 */
function parseOptions(value: unknown): PagerOptions {
  const options = parseObject(value, "options");
  const memory = parseObject(options["memory"], "memory");
  const layers = memory["layers"];
  const userId = optional(options["vmUserId"], parseUserId, "vmUserId");
  return {
    runFolder: parseString(options["runFolder"], "runFolder"),
    vmSocketPath: parseString(options["vmSocketPath"], "vmSocketPath"),
    ...(userId === undefined ? {} : { vmUserId: userId }),
    connectBudgetMs: parseInteger(options["connectBudgetMs"], "connectBudgetMs", 1, 3_600_000),
    memory: {
      imagePath: parseString(memory["imagePath"], "imagePath"),
      layers: Array.isArray(layers) ? (layers as readonly StackedLayer[]) : [],
      sizeBytes: parseInteger(memory["sizeBytes"], "sizeBytes", 1, Number.MAX_SAFE_INTEGER),
    },
    prefetch: parseOneOf(options["prefetch"], "prefetch", prefetchModes),
    wideFaults: options["wideFaults"] === true,
    ...optionalPath(options, "workingSetPath"),
    ...optionalPath(options, "recordPath"),
  };
}

function optionalPath<K extends string>(
  options: JsonObject,
  name: K,
): { readonly [P in K]?: string } {
  const path = optional(options[name], parseString, name);
  return path === undefined ? {} : ({ [name]: path } as { readonly [P in K]?: string });
}

function parseUserId(value: unknown, what: string): number {
  return parseInteger(value, what, 0, 2 ** 32 - 2);
}
