import assert from "node:assert/strict";
import { test } from "node:test";
import { servedDomain } from "./served-domain.ts";

test("the domain of sandboxes has the port that serves it, unless it is the usual one", () => {
  const cases: readonly (readonly [string, string, string])[] = [
    ["localhost", "http://127.0.0.1:7330", "localhost:7330"],
    ["localhost", "http://127.0.0.1:80", "localhost"],
    ["box.example", "https://box.example:7443", "box.example:7443"],
    ["box.example", "https://box.example:443", "box.example"],
    ["box.example", "https://box.example:80", "box.example:80"],
  ];
  for (const [domain, url, served] of cases) assert.equal(servedDomain(domain, url), served);
});
