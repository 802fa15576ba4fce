import assert from "node:assert/strict";
import { test } from "node:test";
import {
  type Environment,
  checkSettings,
  daemonSettings,
  differingSettings,
  readSetting,
  settingNames,
  settings,
} from "./settings.ts";

test("what is not set has no value, and every default may be written out", () => {
  for (const name of settingNames) {
    assert.equal(readSetting({}, name), undefined, name);
    const text = settings[name].default;
    if (text !== undefined) assert.doesNotThrow(() => readSetting({ [name]: text }, name), name);
  }
});

test("a value that is none is refused with the name of its variable", () => {
  const cases: readonly (readonly [string, string, RegExp])[] = [
    ["TORPOR_PORT", "", /TORPOR_PORT is empty/],
    ["TORPOR_PORT", "0x10", /must be a whole number/],
    ["TORPOR_PORT", "1e3", /must be a whole number/],
    ["TORPOR_PORT", " 80", /must be a whole number/],
    ["TORPOR_PORT", "-1", /must be a whole number/],
    ["TORPOR_PORT", "65536", /must be from 0 to 65535/],
    ["TORPOR_NETWORK", "bridge", /must be one of namespace, user/],
    ["TORPOR_VMM", "xen", /must be one of qemu, firecracker/],
    ["TORPOR_PREFETCH", "workingset", /must be one of off, workingSet, all/],
    ["TORPOR_DOMAIN", "box.example:80", /must be a host name/],
    ["TORPOR_TLS_ADDRESS", "0.0.0.0:1", /must be an address/],
    ["TORPOR_USER_IDS", "5", /must be/],
    ["TORPOR_USER_IDS", "9-5", /must be from 9 to/],
    ["TORPOR_BUDGET_FACTOR", "0", /from 1 to 100/],
  ];
  for (const [name, text, expected] of cases) {
    const refused = { code: "argument.invalid", rawMessage: expected };
    assert.throws(() => checkSettings({ [name]: text }), refused, `${name}=${text}`);
  }
});

test("a relative path is refused with the absolute one", () => {
  for (const name of ["TORPOR_HOME", "TORPOR_CACHE", "TORPOR_TLS_CERT", "TORPOR_TLS_KEY"]) {
    assert.throws(() => checkSettings({ [name]: "some/folder" }), {
      rawMessage: `${name} must be an absolute path, not "some/folder"`,
      advice: `Write ${name}=${process.cwd()}/some/folder.`,
    });
    assert.doesNotThrow(() => checkSettings({ [name]: "/some/folder" }));
  }
});

test("a name that means nothing is refused with the nearest one", () => {
  const cases: readonly (readonly [string, string])[] = [
    ["TORPOR_PROT", "Write TORPOR_PORT."],
    ["TORPOR_TLS_CRT", "Write TORPOR_TLS_CERT."],
    ["TORPOR_TLS_CERTIFICATE", "Write TORPOR_TLS_CERT."],
    ["TORPOR_DOMAINS", "Write TORPOR_DOMAIN."],
    ["TORPOR_SOMETHING_OF_ANOTHER_PROGRAM", "README.md lists those that are."],
  ];
  for (const [name, advice] of cases) {
    assert.throws(
      () => checkSettings({ [name]: "1" }),
      (error: { rawMessage: string; advice: string }) => {
        assert.equal(error.rawMessage, `${name} is no setting`);
        assert.equal(error.advice, `${advice} \`unset ${name}\` takes it away.`);
        return true;
      },
    );
  }
  assert.doesNotThrow(() => checkSettings({ PATH: "/bin", E2B_API_KEY: "x", TORPOR_HOOK: "x" }));
});

test("a setting differs where a daemon heeds another value, however it is written", () => {
  const differs = (env: Environment, there: Environment, alsoUnset = false): readonly string[] =>
    differingSettings(env, there, alsoUnset).map(
      ({ name, here, there: theirs }) => `${name} ${here}/${theirs}`,
    );
  assert.deepEqual(differs({ TORPOR_PORT: "8000" }, {}), ["TORPOR_PORT 8000/7330"]);
  assert.deepEqual(differs({ TORPOR_PORT: "7330" }, {}), []);
  assert.deepEqual(differs({ TORPOR_DOMAIN: "Box.Example" }, { TORPOR_DOMAIN: "box.example" }), []);
  assert.deepEqual(differs({ TORPOR_TLS_CERT: "/a/../b" }, { TORPOR_TLS_CERT: "/b" }), []);
  assert.deepEqual(differs({}, { TORPOR_TLS_CERT: "/b" }), []);
  assert.deepEqual(differs({}, { TORPOR_TLS_CERT: "/b" }, true), ["TORPOR_TLS_CERT undefined//b"]);
  // Neither is a daemon's: one finds it, the other is set-up's.
  assert.deepEqual(differs({ TORPOR_HOME: "/a", TORPOR_VMM: "firecracker" }, {}, true), []);
});

test("what a daemon tells of its settings is what it was told", () => {
  const env = { TORPOR_PORT: "1", TORPOR_HOME: "/a", E2B_API_KEY: "secret", TORPOR_SPARES: "2" };
  assert.deepEqual(daemonSettings(env), { TORPOR_PORT: "1", TORPOR_SPARES: "2" });
});
