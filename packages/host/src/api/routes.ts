/** All routes of the API; the server serves these and the OpenAPI document lists these. */
import type { ApiHost } from "./api-host.ts";
import { createRoutes } from "./create-routes.ts";
import { keyRoutes } from "./key-routes.ts";
import { lifecycleRoutes } from "./lifecycle-routes.ts";
import { lookRoutes } from "./look-routes.ts";
import { missingRoutes } from "./missing-routes.ts";
import { observeRoutes } from "./observe-routes.ts";
import { openApiDocument } from "./openapi/document.ts";
import { ownRoutes } from "./own-routes.ts";
import { type Route, noContent } from "./route.ts";
import { snapshotRoutes } from "./snapshot-routes.ts";
import { templateRoutes } from "./template-routes.ts";

/** Makes the routes of one daemon. */
export function allRoutes(host: ApiHost): readonly Route[] {
  const routes: readonly Route[] = [
    {
      method: "GET",
      path: "/health",
      access: "open",
      tag: "daemon",
      summary: "Whether the daemon answers",
      answers: { 204: null },
      handle: () => noContent,
    },
    {
      method: "GET",
      path: "/openapi.json",
      access: "open",
      tag: "daemon",
      summary: "This document",
      answers: { 200: "Own" },
      handle: () => ({ status: 200, body: openApiDocument(routes) }),
    },
    ...createRoutes(host),
    ...lookRoutes(host),
    ...lifecycleRoutes(host),
    ...observeRoutes(host),
    ...snapshotRoutes(host),
    ...templateRoutes(host),
    ...keyRoutes(host),
    ...ownRoutes(host),
    ...missingRoutes,
  ];
  return routes;
}
