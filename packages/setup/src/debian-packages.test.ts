import assert from "node:assert/strict";
import { test } from "node:test";
import {
  ensureDebianPackages,
  hostPackages,
  installCommand,
  missingPackages,
  parseInstalledPackages,
} from "./debian-packages.ts";

const listed = [
  "e2fsprogs\tinstalled\t1.47.0-2",
  "iproute2\tinstalled\t6.1.0-3",
  "mmdebstrap\tconfig-files\t1.3.5-7",
  "qemu-system-x86\tinstalled\t1:7.2+dfsg-7",
  "qemu-utils\thalf-installed\t1:7.2+dfsg-7",
  "",
].join("\n");

test("parseInstalledPackages() counts only what is fully installed", () => {
  const installed = parseInstalledPackages(listed);
  assert.equal(installed.get("qemu-system-x86"), "1:7.2+dfsg-7");
  assert.equal(installed.has("mmdebstrap"), false);
  assert.equal(installed.has("qemu-utils"), false);
});

test("missingPackages() names what is to be installed", () => {
  const missing = missingPackages(parseInstalledPackages(listed)).map((one) => one.name);
  assert.deepEqual(missing, ["qemu-utils", "mmdebstrap"]);
  assert.equal(missingPackages(new Map()).length, hostPackages.length);
});

test("ensureDebianPackages() does nothing when nothing is needed", async () => {
  assert.deepEqual(await ensureDebianPackages({}, []), []);
});

test("ensureDebianPackages() without root names the command to type", async (t) => {
  t.mock.method(process as { getuid(): number }, "getuid", () => 1000);
  const needed = [{ name: "no-such-package", why: "for this test", newest: false }];
  await assert.rejects(ensureDebianPackages({}, needed), {
    code: "root.required",
    advice: `Run as root: ${installCommand(["no-such-package"])}`,
  });
});
