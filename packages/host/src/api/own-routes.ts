/** Torpor's own routes, which show what the E2B wire cannot express; the CLI uses them. */
import { parseInteger, parseString } from "@torpor/std";
import { readConsole, readDetail, readDetails } from "../detail.ts";
import type { ApiHost } from "./api-host.ts";
import { bodyOf, nameCharsMax, sandboxIdOf } from "./fields.ts";
import { ownKeyRoutes } from "./key-routes.ts";
import { type Route, noContent } from "./route.ts";

/** LIMIT: each spare keeps a VM process in memory. */
const poolMax = 100;

/** The routes below `/torpor/`. */
export function ownRoutes(host: ApiHost): readonly Route[] {
  const { sandboxes, templates } = host;
  const shared = { access: "team", tag: "torpor" } as const;
  return [
    {
      ...shared,
      method: "GET",
      path: "/torpor/daemon",
      summary: "Facts about the daemon",
      answers: { 200: "Own" },
      handle: async () => ({ status: 200, body: await host.describe() }),
    },
    {
      ...shared,
      method: "GET",
      path: "/torpor/sandboxes",
      summary: "All sandboxes, in every state",
      answers: { 200: { listOf: "Own" } },
      handle: async () => ({ status: 200, body: await readDetails(sandboxes) }),
    },
    {
      ...shared,
      method: "GET",
      path: "/torpor/sandboxes/{sandboxID}",
      summary: "All that is known of a sandbox",
      answers: { 200: "Own" },
      handle: async (request) => {
        const sandbox = sandboxes.get(sandboxIdOf(request));
        return { status: 200, body: await readDetail(sandboxes, sandbox) };
      },
    },
    {
      ...shared,
      method: "GET",
      path: "/torpor/sandboxes/{sandboxID}/console",
      summary: "The end of a sandbox's console and of its VMM's log",
      answers: { 200: "Own" },
      handle: async (request) => ({
        status: 200,
        body: await readConsole(sandboxes.get(sandboxIdOf(request))),
      }),
    },
    {
      ...shared,
      method: "GET",
      path: "/torpor/templates",
      summary: "The names of all templates",
      answers: { 200: "Names" },
      handle: async () => ({ status: 200, body: await templates.names() }),
    },
    {
      ...shared,
      method: "POST",
      path: "/torpor/snapshots/{snapshotID}/pool",
      summary: "Keep sandboxes of a snapshot ready",
      body: { schema: "PoolRequest", required: true },
      answers: { 204: null },
      handle: async (request) => {
        const id = parseString(request.params["snapshotID"], "snapshot id", nameCharsMax);
        await sandboxes.setPool(id, parseInteger(bodyOf(request)["count"], "count", 0, poolMax));
        return noContent;
      },
    },
    ...ownKeyRoutes(host),
  ];
}
