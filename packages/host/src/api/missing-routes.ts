/** Routes of E2B's that this version knows and does not serve: each answers why. */
import { refuse } from "./fields.ts";
import type { Method, Route } from "./route.ts";

const building = "templates cannot be built here yet";
const volumes = "there are no volumes yet";
const secrets = "there are no secrets";
const events = "there are no events and webhooks";

const missing: readonly (readonly [Method, string, string])[] = [
  ["POST", "/v3/templates", building],
  ["GET", "/templates/{templateID}/files/{hash}", building],
  ["POST", "/v2/templates/{templateID}/builds/{buildID}", building],
  ["GET", "/templates/{templateID}/builds/{buildID}/status", building],
  ["GET", "/templates/{templateID}/builds/{buildID}/logs", building],
  ["PATCH", "/v2/templates/{templateID}", "there is one team, and nobody to publish a template to"],
  ["PATCH", "/templates/{templateID}", "there is one team, and nobody to publish a template to"],
  ["GET", "/teams/{teamID}/metrics", "there are no metrics of teams"],
  ["GET", "/teams/{teamID}/metrics/max", "there are no metrics of teams"],
  ["GET", "/volumes", volumes],
  ["POST", "/volumes", volumes],
  ["GET", "/volumes/{volumeID}", volumes],
  ["DELETE", "/volumes/{volumeID}", volumes],
  ["GET", "/secrets", secrets],
  ["POST", "/secrets", secrets],
  ["GET", "/secrets/{secretID}", secrets],
  ["POST", "/secrets/{secretID}", secrets],
  ["DELETE", "/secrets/{secretID}", secrets],
  ["GET", "/events/sandboxes", events],
  ["GET", "/events/sandboxes/{sandboxID}", events],
  ["GET", "/events/webhooks", events],
  ["POST", "/events/webhooks", events],
];

/** A route for each of them; it answers 501 with the reason. */
export const missingRoutes: readonly Route[] = missing.map(([method, path, reason]) => ({
  method,
  path,
  access: "team",
  tag: "not there",
  summary: `Answers 501: ${reason}`,
  answers: { 501: "Error" },
  handle: () => refuse(reason),
}));
