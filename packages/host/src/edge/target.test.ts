import assert from "node:assert/strict";
import { test } from "node:test";
import { targetOf } from "./target.ts";

const guest = { kind: "guest", sandboxId: "iabc", port: 3000 };

test("a host below the domain names port and sandbox", () => {
  for (const host of [
    "3000-iabc.localhost",
    "3000-iabc.localhost:7330",
    "3000-IABC.LOCALHOST.",
    "3000-iabc-client.localhost",
  ]) {
    assert.deepEqual(targetOf({ host }, "localhost"), guest, host);
  }
  assert.deepEqual(targetOf({ ":authority": "3000-iabc.box.example" }, "box.example"), guest);
});

test("other hosts are the API's", () => {
  for (const host of [
    "localhost:7330",
    "127.0.0.1",
    "api.localhost",
    "3000-iabc.elsewhere",
    "3000-iabc.notlocalhost",
    "[::1]:7330",
    "",
  ]) {
    assert.deepEqual(targetOf({ host }, "localhost"), { kind: "api" }, host);
  }
  assert.deepEqual(targetOf({}, "localhost"), { kind: "api" });
});

test("headers name it on any host, and only both together", () => {
  const named = { "e2b-sandbox-id": "iabc", "e2b-sandbox-port": "3000" };
  for (const host of ["127.0.0.1:7330", "sandbox.localhost", "49983-iabc.localhost"]) {
    assert.deepEqual(targetOf({ host, ...named }, "localhost"), guest);
  }
  for (const lone of [{ "e2b-sandbox-id": "iabc" }, { "e2b-sandbox-port": "3000" }]) {
    assert.equal(targetOf(lone, "localhost").kind, "misnamed");
  }
});

test("headers and a host that name different sandboxes are refused", () => {
  const headers = { "e2b-sandbox-id": "iother", "e2b-sandbox-port": "3000" };
  assert.equal(targetOf({ host: "3000-iabc.localhost", ...headers }, "localhost").kind, "misnamed");
});

test("what is no port or no id is refused", () => {
  for (const [id, port] of [
    ["iabc", "0"],
    ["iabc", "65536"],
    ["iabc", "80x"],
    ["iabc", ""],
    ["../x", "80"],
    ["", "80"],
  ]) {
    const headers = { "e2b-sandbox-id": id, "e2b-sandbox-port": port };
    assert.equal(targetOf(headers, "localhost").kind, "misnamed", `${id} ${port}`);
  }
  assert.equal(targetOf({ host: "99999-iabc.localhost" }, "localhost").kind, "misnamed");
  assert.equal(targetOf({ host: "3000-.localhost" }, "localhost").kind, "misnamed");
});
