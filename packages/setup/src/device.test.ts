import assert from "node:assert/strict";
import { userInfo } from "node:os";
import { test } from "node:test";
import { type DeviceFacts, deviceAdvice, inspectDevice } from "./device.ts";

test("a device that is there is told from one that is missing", async () => {
  assert.equal((await inspectDevice("/dev/null")).state, "usable");
  assert.equal((await inspectDevice("/dev/none-such")).state, "missing");
});

test("one that is closed is opened by its group, or for the user alone", () => {
  const closed: DeviceFacts = { path: "/dev/kvm", state: "closed", group: "kvm" };
  const user = userInfo().username;
  assert.equal(
    deviceAdvice(closed),
    `Run as root: usermod --append --groups kvm ${user}; then log in again.`,
  );
  assert.equal(
    deviceAdvice({ ...closed, group: undefined }),
    `Run as root: setfacl --modify u:${user}:rw /dev/kvm`,
  );
  assert.match(deviceAdvice({ ...closed, state: "missing" }), /a machine with \/dev\/kvm/);
});
