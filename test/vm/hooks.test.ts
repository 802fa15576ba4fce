/**
 * Hooks of the guest's owner: run before a snapshot and after a restore, with what happens in their
 * environment; one that fails or hangs is told of and holds nothing up for longer than its budget.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseJson } from "@torpor/std";
import { startTestDaemon } from "@torpor/testing";

const hooks = "/etc/torpor/hooks";
const noteMoment = `#!/bin/sh
echo "$TORPOR_HOOK $TORPOR_REASON $TORPOR_SANDBOX_ID" >> /home/user/moments
`;

test("hooks", async (t) => {
  await using daemon = await startTestDaemon();
  const sandbox = await daemon.create();
  // Those after a wake run beside the first commands.
  const untilBoth = "for i in $(seq 600); do [ $(wc -l <moments) -lt 2 ] || break; sleep 0.1; done";
  const moments = async (of = sandbox): Promise<readonly string[]> =>
    (await of.shell(`${untilBoth}; cat moments; rm -f moments`)).split("\n");
  for (const moment of ["pre-snapshot.d", "post-restore.d"]) {
    const path = `${hooks}/${moment}/10-note`;
    await sandbox.shell(`cat > ${path} <<'END'\n${noteMoment}END\nchmod 755 ${path}`, {
      user: "root",
    });
  }

  await t.test("run around a pause and a resume", async () => {
    await sandbox.pause();
    await sandbox.resume();
    assert.deepEqual(await moments(), [
      `pre-snapshot pause ${sandbox.id}`,
      `post-restore resume ${sandbox.id}`,
    ]);
  });

  await t.test("run in the parent and in the child of a fork, each with its own id", async () => {
    const [child] = (await sandbox.fork()).children;
    assert.ok(child !== undefined);
    const before = `pre-snapshot checkpoint ${sandbox.id}`;
    assert.deepEqual(await moments(), [before, `post-restore continue ${sandbox.id}`]);
    assert.deepEqual(await moments(child), [before, `post-restore fork ${child.id}`]);
    await child.remove();
  });

  await t.test("one that fails and one that hangs stop no pause and no wake", async () => {
    const make = `cd ${hooks}/pre-snapshot.d
printf '#!/bin/sh\\necho broken >&2; exit 3\\n' > 20-fails
printf '#!/bin/sh\\nsleep 1000\\n' > 30-hangs
chmod 755 20-fails 30-hangs
cp -p 20-fails ../post-restore.d`;
    await sandbox.shell(make, { user: "root" });
    await sandbox.pause();
    await sandbox.resume();
    assert.equal((await moments()).length, 2);
    const { text } = await daemon.api.call("GET", `/torpor/sandboxes/${sandbox.id}/console`);
    assert.equal(
      await sandbox.shell("pgrep -x sleep | wc -l"),
      "0",
      "the one that hung was killed",
    );
    const { console: shown } = parseJson(text, "logs") as { console: string };
    const told = shown.split("\n").filter((line) => line.includes("a hook failed"));
    // Of this run; what was said before the pause went with the console of the run before.
    assert.equal(told.length, 1, shown);
    assert.match(told[0] ?? "", /post-restore\.d\/20-fails.*exit status 3.*broken/);
  });
});
