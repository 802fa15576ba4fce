/** The OpenAPI document says what the server serves: no route more, none less, all of it well-formed. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseObject } from "@torpor/std";
import { Ajv2020 } from "ajv/dist/2020.js";
import { startFakeApi } from "../fixtures.ts";

test("every route of the server is in the document, and the other way round", async () => {
  await using api = await startFakeApi({ validator: new Ajv2020({ strict: false }) });
  const { status, body } = await api.call("GET", "/openapi.json");
  assert.equal(status, 200);
  const { paths, openapi } = parseObject(body, "document");
  assert.equal(openapi, "3.1.0");
  const documented = Object.entries(paths as Record<string, object>).flatMap(([path, operations]) =>
    Object.keys(operations).map(
      (method) => `${method.toUpperCase()} ${path.replaceAll(/\{(\w+)\}/g, ":$1")}`,
    ),
  );
  assert.deepEqual(documented.sort(), [...api.served].sort());
  assert.ok(documented.length > 40);
});

test("every schema of the document is one", async () => {
  const validator = new Ajv2020({ strict: false, validateFormats: false });
  await using api = await startFakeApi({ validator });
  const { body } = await api.call("GET", "/openapi.json");
  const { schemas } = parseObject(parseObject(body, "document")["components"], "components");
  for (const name of Object.keys(parseObject(schemas, "schemas"))) {
    validator.compile({ $ref: `document#/components/schemas/${name}` });
  }
});
