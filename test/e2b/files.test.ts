/**
 * Files as the published SDKs read, write, list and watch them, and signed links to them that need no
 * key.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { privateRoutes } from "@torpor/protocol";
import { waitUntil } from "@torpor/testing";
import { withEachSdk } from "./published-clients.ts";

test("files by the published SDKs", async (story) => {
  await withEachSdk(story, async (t, { Sandbox, FileType, FilesystemEventType, ...sdk }) => {
    const sandbox = await Sandbox.create();
    const { files } = sandbox;

    await t.test("files.write and files.read carry text and bytes, in every format", async () => {
      const written = await files.write("hello.txt", "Grüße");
      assert.equal(written.path, "/home/user/hello.txt");
      assert.equal(await files.read("hello.txt"), "Grüße");
      const bytes = await files.read("hello.txt", { format: "bytes" });
      assert.equal(Buffer.from(bytes).toString(), "Grüße");
      const blob = await files.read("hello.txt", { format: "blob" });
      assert.equal(await blob.text(), "Grüße");
      const stream = await files.read("hello.txt", { format: "stream" });
      assert.equal(await new Response(stream).text(), "Grüße");
      await files.write("empty", "");
      assert.equal(await files.read("empty"), "");
    });

    await t.test("files.write takes bytes, blobs and streams, also compressed", async () => {
      const bytes = Uint8Array.from({ length: 300_000 }, (_, index) => (index * index) % 251);
      const blob = new Blob([bytes]);
      await files.write("bytes", bytes.buffer);
      await files.write("blob", blob);
      await files.write("stream", blob.stream());
      await files.write("gzip", blob, { gzip: true });
      for (const name of ["bytes", "blob", "stream", "gzip"]) {
        assert.deepEqual(await files.read(name, { format: "bytes" }), bytes, name);
      }
    });

    await t.test("files.writeFiles writes several in folders of their own", async () => {
      const written = await files.writeFiles([
        { path: "many/a/one.txt", data: "1" },
        { path: "/home/user/many/b/two.txt", data: "2" },
      ]);
      assert.deepEqual(
        written.map(({ path }) => path),
        ["/home/user/many/a/one.txt", "/home/user/many/b/two.txt"],
      );
      assert.equal(await files.read("many/b/two.txt"), "2");
    });

    await t.test("files.list goes as deep as asked", async () => {
      const [a, b] = await files.list("many");
      assert.deepEqual([a?.name, b?.name], ["a", "b"]);
      assert.equal(a?.type, FileType.DIR);
      const deep = await files.list("many", { depth: 2 });
      assert.deepEqual(
        deep.map(({ path }) => path),
        ["a", "a/one.txt", "b", "b/two.txt"].map((path) => `/home/user/many/${path}`),
      );
    });

    await t.test("files.getInfo tells size, rights, owner and time", async () => {
      const info = await files.getInfo("many/a/one.txt");
      assert.equal(info.type, FileType.FILE);
      assert.equal(info.size, 1);
      assert.equal(info.mode, 0o644);
      assert.equal(info.permissions, "-rw-r--r--");
      assert.equal(info.owner, "user");
      assert.equal(info.group, "user");
      assert.ok(Math.abs(Date.now() - Number(info.modifiedTime)) < 60_000);
      await sandbox.commands.run("ln -s hello.txt link");
      assert.equal((await files.getInfo("link")).symlinkTarget, "/home/user/hello.txt");
    });

    await t.test("files.makeDir says whether it made one", async () => {
      assert.equal(await files.makeDir("new/folder"), true);
      assert.equal(await files.makeDir("new/folder"), false);
    });

    await t.test("files.rename, files.exists and files.remove", async () => {
      const moved = await files.rename("many/a/one.txt", "moved/one.txt");
      assert.equal(moved.path, "/home/user/moved/one.txt");
      assert.equal(await files.exists("many/a/one.txt"), false);
      assert.equal(await files.exists("moved/one.txt"), true);
      await files.remove("moved");
      assert.equal(await files.exists("moved/one.txt"), false);
      await files.remove("moved");
    });

    await t.test("what is not there and what is no file have errors of their own", async () => {
      const isNotFound = (error: unknown): boolean => error instanceof sdk.FileNotFoundError;
      const isInvalid = (error: unknown): boolean => error instanceof sdk.InvalidArgumentError;
      await assert.rejects(files.read("nothing"), isNotFound);
      await assert.rejects(files.getInfo("nothing"), isNotFound);
      await assert.rejects(files.rename("nothing", "something"), isNotFound);
      await assert.rejects(files.list("nothing"), isNotFound);
      await assert.rejects(files.read("many"), isInvalid);
      await assert.rejects(files.list("hello.txt"), isInvalid);
      await assert.rejects(files.write("many", "text"), isInvalid);
    });

    await t.test("files belong to the user who is named", async () => {
      await files.write("/root/secret", "mine", { user: "root" });
      assert.equal((await files.getInfo("~/secret", { user: "root" })).owner, "root");
      await assert.rejects(
        files.read("x", { user: "nobody-like-this" }),
        (error) => error instanceof sdk.AuthenticationError,
      );
    });

    await t.test("files.write stores metadata that files.getInfo tells", async () => {
      const written = await files.write("tagged", "text", { metadata: { purpose: "a test" } });
      assert.deepEqual(written.metadata, { purpose: "a test" });
      assert.deepEqual((await files.getInfo("tagged")).metadata, { purpose: "a test" });
      await files.write("tagged", "text");
      assert.deepEqual((await files.getInfo("tagged")).metadata ?? {}, {});
    });

    await t.test("files.watchDir tells what happens in a folder and below", async () => {
      const events: string[] = [];
      const handle = await files.watchDir(
        "many",
        ({ type, name, entry }) => void events.push(`${type} ${name} ${entry?.type ?? "-"}`),
        { recursive: true, includeEntry: true },
      );
      await files.write("many/b/three.txt", "3");
      await files.remove("many/b/three.txt");
      await files.makeDir("many/c");
      await files.write("many/c/four.txt", "4");
      const wanted = [
        `${FilesystemEventType.REMOVE} b/three.txt -`,
        `${FilesystemEventType.CREATE} c dir`,
        `${FilesystemEventType.CREATE} c/four.txt file`,
      ];
      await waitUntil("all is told", async () => {
        return wanted.every((one) => events.includes(one)) || undefined;
      });
      assert.ok(events.some((one) => one.startsWith(`${FilesystemEventType.WRITE} b/three.txt`)));
      await handle.stop();
      await assert.rejects(
        files.watchDir("nothing", () => undefined),
        (error) => error instanceof sdk.FileNotFoundError,
      );
    });

    await t.test(
      "Sandbox.uploadUrl and Sandbox.downloadUrl need no key until they expire",
      async () => {
        // With one address for all sandboxes a link does not say which one it leads to.
        const headers = { "E2b-Sandbox-Id": sandbox.sandboxId, "E2b-Sandbox-Port": "49983" };
        const body = new FormData();
        body.append("file", new Blob(["linked"]), "linked.txt");
        const uploadUrl = await sandbox.uploadUrl("linked.txt", { useSignatureExpiration: 60 });
        const uploaded = await fetch(uploadUrl, { method: "POST", body, headers });
        assert.equal(uploaded.status, 200, await uploaded.text());
        const link = await sandbox.downloadUrl("linked.txt");
        assert.equal(await (await fetch(link, { headers })).text(), "linked");

        const other = link.replace("linked.txt", "hello.txt");
        assert.equal((await fetch(other, { headers })).status, 401, "the link is for one file");
        const asRoot = await sandbox.downloadUrl("/root/secret", { user: "root" });
        assert.equal(await (await fetch(asRoot, { headers })).text(), "mine");
        const expired = await sandbox.downloadUrl("linked.txt", { useSignatureExpiration: -60 });
        assert.equal((await fetch(expired, { headers })).status, 401);
      },
    );

    await t.test("a request without the sandbox's token is refused", async () => {
      const headers = { "E2b-Sandbox-Id": sandbox.sandboxId, "E2b-Sandbox-Port": "49983" };
      const url = `${process.env["E2B_SANDBOX_URL"]}/files?path=hello.txt`;
      assert.equal((await fetch(url, { headers })).status, 401);
      const wrong = { ...headers, "X-Access-Token": "wrong" };
      assert.equal((await fetch(url, { headers: wrong })).status, 401);
    });

    await t.test("the agent's routes for the host alone are not there for clients", async () => {
      const url = process.env["E2B_SANDBOX_URL"] ?? "";
      const headers = { "E2b-Sandbox-Id": sandbox.sandboxId, "E2b-Sandbox-Port": "49983" };
      for (const route of privateRoutes) {
        const answer = await fetch(`${url}${route}`, { method: "POST", headers, body: "{}" });
        assert.equal(answer.status, 404, route);
      }
    });

    assert.equal(await sandbox.kill(), true);
  });
});
