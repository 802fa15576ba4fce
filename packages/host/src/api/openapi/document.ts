/** The OpenAPI document, made from the routes that the server serves. */
import type { JsonObject } from "@torpor/std";
import { keyCharsMax } from "../idempotency-key.ts";
import type { AnswerSchema, Route } from "../route.ts";
import { ref, schemas } from "./schemas.ts";

const version = "0.1.0";
const description =
  "The control plane of Torpor in the shapes of E2B's, and routes of our own below /torpor. " +
  "On the Unix socket no credentials are asked for.";

const keySays =
  "Chosen by the client: the same request with the same key takes effect once, for 24 hours";

const securityOf = {
  open: [],
  team: [{ apiKey: [] }, { accessToken: [] }],
  token: [{ accessToken: [] }],
} as const;

/** Makes the document of all routes, with their schemas. */
export function openApiDocument(routes: readonly Route[]): JsonObject {
  const paths: Record<string, Record<string, JsonObject>> = {};
  for (const route of routes) {
    paths[route.path] = {
      ...paths[route.path],
      [route.method.toLowerCase()]: toOperation(route),
    };
  }
  return {
    openapi: "3.1.0",
    info: { title: "Torpor", version, description },
    paths,
    components: {
      schemas,
      securitySchemes: {
        apiKey: { type: "apiKey", in: "header", name: "X-API-Key" },
        accessToken: { type: "http", scheme: "bearer" },
      },
    },
  };
}

function toOperation(route: Route): JsonObject {
  const answers = Object.entries(route.answers).map(([status, schema]) => [
    status,
    { description: route.summary, ...toContent(schema) },
  ]);
  return {
    summary: route.summary,
    tags: [route.tag],
    security: securityOf[route.access],
    parameters: [...pathParameters(route), ...queryParameters(route), ...headerParameters(route)],
    ...toRequestBody(route),
    responses: {
      ...Object.fromEntries(answers),
      default: { description: "What went wrong", ...toContent("Error") },
    },
  };
}

function pathParameters({ path }: Route): readonly JsonObject[] {
  return [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => ({
    name,
    in: "path",
    required: true,
    schema: { type: "string" },
  }));
}

function queryParameters({ query = {} }: Route): readonly JsonObject[] {
  return Object.entries(query).map(([name, { type, description: says }]) => ({
    name,
    in: "query",
    required: false,
    description: says,
    schema: { type },
  }));
}

function headerParameters({ onRepeat }: Route): readonly JsonObject[] {
  if (onRepeat !== "asKeyed") return [];
  const schema = { type: "string", minLength: 1, maxLength: keyCharsMax };
  return [{ name: "Idempotency-Key", in: "header", required: false, description: keySays, schema }];
}

function toRequestBody({ body }: Route): JsonObject {
  if (body === undefined) return {};
  return { requestBody: { required: body.required, ...toContent(body.schema) } };
}

function toContent(schema: AnswerSchema | null): JsonObject {
  if (schema === null) return {};
  const shape =
    typeof schema === "string" ? ref(schema) : { type: "array", items: ref(schema.listOf) };
  return { content: { "application/json": { schema: shape } } };
}
