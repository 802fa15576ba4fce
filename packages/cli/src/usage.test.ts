import assert from "node:assert/strict";
import { test } from "node:test";
import { parseCommandWords, parseEnv, parsePairs, shellArgv, wholeNumber } from "./usage.ts";

test("pairs split at the first =; a later one wins", () => {
  assert.deepEqual(parsePairs(["a=1=2", "b=", "a=3"], "--metadata"), { a: "3", b: "" });
  assert.deepEqual(parsePairs(undefined, "--metadata"), {});
});

test("a pair needs a key and a =", () => {
  for (const word of ["a", "=1", ""]) {
    assert.throws(() => parsePairs([word], "--metadata"), { code: "argument.invalid" });
  }
});

test("a bare variable takes its value from our environment", () => {
  assert.deepEqual(parseEnv(["TOKEN", "A=1"], { TOKEN: "s=x" }), { TOKEN: "s=x", A: "1" });
  assert.throws(() => parseEnv(["MISSING"], {}), /MISSING is not set here/);
});

test("the words of a command lose the -- in front of them, and no other", () => {
  assert.deepEqual(parseCommandWords(["--", "ls", "--", "-l"]), ["ls", "--", "-l"]);
  assert.deepEqual(parseCommandWords(["ls", "-l"]), ["ls", "-l"]);
  assert.throws(() => parseCommandWords(["-t", "--", "ls"]), /-t comes too late/);
});

test("a single word with spaces is a line of shell", () => {
  assert.deepEqual(shellArgv(["echo a | wc"]), ["/bin/bash", "-l", "-c", "echo a | wc"]);
  assert.deepEqual(shellArgv(["echo", "a b"]), ["echo", "a b"]);
  assert.deepEqual(shellArgv(["ls"]), ["ls"]);
});

test("a count is made of digits and has a least value", () => {
  assert.equal(wholeNumber(1)("12"), 12);
  for (const text of ["0", "-1", "1.5", "1e3", "", " 1", "99999999999999999"]) {
    assert.throws(() => wholeNumber(1)(text), { code: "argument.invalid" }, text);
  }
});
