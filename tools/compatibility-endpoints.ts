/**
 * The control plane's endpoints for COMPATIBILITY.md: what the server itself says it serves, which
 * calls of the published clients send each request, and which tests send it by hand.
 */
import { glob, readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { parseObject, parseString } from "@torpor/std";
import { Ajv2020 } from "ajv/dist/2020.js";
import { startFakeApi } from "../packages/host/src/api/fixtures.ts";

const root = join(import.meta.dirname, "..");

interface Endpoint {
  /** In the form `GET /sandboxes/{sandboxID}`. */
  readonly name: string;
  readonly tag: string;
  readonly summary: string;
}

interface Sent {
  readonly endpoint: string;
  readonly file: string;
}

/**
 * A line for each of E2B's endpoints: what it does, which working calls of clients send its
 * request, and which tests do.
 *
 * @param requests The requests that each working call sends, from the tables of calls.
 */
export async function endpointRows(
  requests: Readonly<Record<string, string>>,
): Promise<readonly (readonly string[])[]> {
  const sent = await readSent();
  const endpoints = await listEndpoints();
  return endpoints
    .filter(({ name }) => !name.includes(" /torpor/"))
    .map(({ name, tag, summary }) => {
      const calls = Object.entries(requests)
        .filter(([, text]) => namedIn(text).some((one) => isSame(one, name)))
        .map(([call]) => `\`${call}\``);
      const files = sent.filter(({ endpoint }) => isSame(endpoint, name)).map(({ file }) => file);
      const shown = [...new Set(files)].map((file) => `[${basename(file)}](${file})`);
      const isMissing = tag === "not there";
      const state = isMissing ? "501" : calls.length + shown.length > 0 ? "works" : "no test";
      return [`\`${name}\``, state, summary, [...calls, ...shown].join(", ")];
    });
}

async function listEndpoints(): Promise<readonly Endpoint[]> {
  await using api = await startFakeApi({ validator: new Ajv2020({ strict: false }) });
  const { body } = await api.call("GET", "/openapi.json");
  const paths = parseObject(parseObject(body, "document")["paths"], "paths");
  return Object.entries(paths).flatMap(([path, operations]) =>
    Object.entries(parseObject(operations, path)).map(([method, said]) => {
      const operation = parseObject(said, method);
      const [tag] = operation["tags"] as readonly string[];
      return {
        name: `${method.toUpperCase()} ${path}`,
        tag: tag ?? "",
        summary: parseString(operation["summary"], "summary"),
      };
    }),
  );
}

/** The requests of tests that talk to the control plane without a client. */
async function readSent(): Promise<readonly Sent[]> {
  const sent: Sent[] = [];
  const patterns = ["packages/host/src/api/**/*.test.ts", "test/vm/*.test.ts"];
  const files = await Array.fromAsync(glob(patterns, { cwd: root }));
  const call = /\bcall\(\s*"([A-Z]+)",\s*(?:"([^"]+)"|`([^`]+)`)/g;
  for (const file of files.sort()) {
    const text = await readFile(join(root, file), "utf8");
    for (const [, method = "", plain, template] of text.matchAll(call)) {
      sent.push({ endpoint: `${method} ${plain ?? template ?? ""}`, file });
    }
  }
  return sent;
}

function namedIn(text: string): readonly string[] {
  return [...text.matchAll(/`([A-Z]+ \/[^`]*)`(?! of the agent)/g)].map(([, name = ""]) => name);
}

/** Whether a request could be for the endpoint: any text can be a parameter. */
function isSame(request: string, endpoint: string): boolean {
  const path = request.replace(/\?.*$/, "").replaceAll(/\$?\{[^}]*\}/g, "any");
  const pattern = endpoint.replaceAll(/\{\w+\}/g, "[^/ ]+").replaceAll(".", "\\.");
  return new RegExp(`^${pattern}$`).test(path);
}
