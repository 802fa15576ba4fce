import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeDaemon, runForTest } from "./fixtures.ts";

const nowhere = "/nonexistent/torpor";

test("a setting that a running daemon does not heed is said once, and how to apply it", async () => {
  await using daemon = await FakeDaemon.start();
  daemon.settings = { TORPOR_PORT: "8000" };
  const env = { TORPOR_PORT: "8000", TORPOR_DOMAIN: "box.example", TORPOR_SPARES: "1" };
  const { exitCode, stdout, stderr } = await daemon.run(["create"], { env });
  assert.equal(exitCode, 0);
  assert.equal(stdout, "inew1\n");
  assert.equal(
    stderr,
    `The daemon that runs was started with other settings:
  TORPOR_DOMAIN  here box.example,  there localhost
\`torpor down && torpor up\` applies those of here; sandboxes go on meanwhile.
`,
  );
});

test("nothing is said of equal settings, none, or a daemon that tells none", async () => {
  await using daemon = await FakeDaemon.start();
  daemon.settings = { TORPOR_PORT: "8000" };
  for (const env of [{}, { TORPOR_PORT: "8000" }, { TORPOR_VMM: "qemu" }]) {
    assert.equal((await daemon.run(["ls", "-q"], { env })).stderr, "");
  }
  daemon.settings = null;
  const { stderr } = await daemon.run(["ls", "-q"], { env: { TORPOR_PORT: "1" } });
  assert.equal(stderr, "");
});

test("no verb runs with a variable that means nothing, but help does", async () => {
  const misspelt = ["TORPOR", "PROT"].join("_");
  for (const env of [{ [misspelt]: "1" }, { TORPOR_HOME: "state" }, { TORPOR_PORT: "http" }]) {
    for (const argv of [["ls"], ["snapshot", "ls"], ["down"], ["doctor"], ["logs", "--daemon"]]) {
      const { exitCode, stdout, stderr } = await runForTest(argv, nowhere, { env });
      assert.equal(exitCode, 2, argv.join(" "));
      assert.equal(stdout, "");
      assert.match(stderr, /^error: TORPOR_(PROT|HOME|PORT) [^]*\n {2}next: /);
    }
    assert.equal((await runForTest(["--help"], nowhere, { env })).exitCode, 0);
    assert.equal((await runForTest(["completion", "bash"], nowhere, { env })).exitCode, 0);
  }
});

test("up refuses a setting that the daemon would refuse before it sets anything up", async () => {
  const env = { TORPOR_TLS_PORT: "443" };
  const { exitCode, stdout, stderr } = await runForTest(["up"], nowhere, { env });
  assert.equal(exitCode, 1);
  assert.equal(stdout, "");
  assert.match(stderr, /^error: TLS needs TORPOR_TLS_CERT and TORPOR_TLS_KEY\n {2}next: /);
});
