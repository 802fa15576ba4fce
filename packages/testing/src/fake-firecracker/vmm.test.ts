/**
 * The fake Firecracker answers like the real one, with the same refusals and words. Requests before
 * a VM's start need no KVM, so the tests also send those to the real one where FIRECRACKER_BIN
 * names one.
 */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync } from "node:fs";
import { mkdtempDisposable, readFile, stat, writeFile } from "node:fs/promises";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { NetworkNamespace, dataRanges } from "@torpor/native";
import { installFakeFirecracker } from "./install.ts";

const asRoot = { skip: process.getuid?.() === 0 ? false : "needs root" };
const memoryMiB = 8;
const realPath = process.env["FIRECRACKER_BIN"];
const needsReal = { skip: realPath === undefined ? "not run: FIRECRACKER_BIN names none" : false };
const both = [
  { name: "the fake", program: undefined, options: asRoot },
  { name: "the real one", program: realPath, options: needsReal },
];

let started = 0;

interface Answered {
  readonly status: number;
  readonly body: Readonly<Record<string, unknown>>;
}

class Fake implements AsyncDisposable {
  readonly folder: string;
  readonly #child: ChildProcess;
  readonly #namespace: NetworkNamespace;

  readonly #socket: string;

  private constructor(
    folder: string,
    socket: string,
    child: ChildProcess,
    namespace: NetworkNamespace,
  ) {
    this.folder = folder;
    this.#socket = socket;
    this.#child = child;
    this.#namespace = namespace;
  }

  static async start(folder: string, program?: string): Promise<Fake> {
    const firecracker = program ?? (await installFakeFirecracker(folder)).firecracker;
    const namespace = NetworkNamespace.create();
    const socket = join(folder, `api${started++}.sock`);
    const child = namespace.enter(() =>
      spawn(firecracker, ["--id", "fake", "--api-sock", socket], { stdio: "ignore" }),
    );
    const fake = new Fake(folder, socket, child, namespace);
    for (;;) {
      const answered = await fake.ask("GET", "/").catch(() => undefined);
      if (answered !== undefined) return fake;
      await sleep(5);
    }
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  async ask(method: string, path: string, body?: object | string): Promise<Answered> {
    const sent = request({ socketPath: this.#socket, method, path });
    sent.end(typeof body === "object" ? JSON.stringify(body) : body);
    const [answer] = (await once(sent, "response")) as [
      NodeJS.ReadableStream & { statusCode: number },
    ];
    let text = "";
    for await (const part of answer) text += String(part);
    const parsed = text === "" ? {} : (JSON.parse(text) as Answered["body"]);
    return { status: answer.statusCode, body: parsed };
  }

  async refuses(
    words: RegExp,
    method: string,
    path: string,
    body?: object | string,
  ): Promise<void> {
    const { status, body: answer } = await this.ask(method, path, body);
    assert.equal(status, 400, `${method} ${path}`);
    assert.match(String(answer["fault_message"]), words);
  }

  async takes(method: string, path: string, body: object): Promise<void> {
    assert.deepEqual(await this.ask(method, path, body), { status: 204, body: {} });
  }

  async boot(): Promise<void> {
    await writeFile(this.path("kernel"), "\x7fELF", "latin1");
    await writeFile(this.path("initrd"), "");
    await writeFile(this.path("disk"), Buffer.alloc(2 ** 21));
    const kernel = { kernel_image_path: this.path("kernel"), initrd_path: this.path("initrd") };
    const machine = { vcpu_count: 1, mem_size_mib: memoryMiB, track_dirty_pages: true };
    const disk = { drive_id: "disk", is_root_device: false, path_on_host: this.path("disk") };
    const card = { iface_id: "net", host_dev_name: "tap0" };
    await this.takes("PUT", "/machine-config", machine);
    await this.takes("PUT", "/boot-source", kernel);
    await this.takes("PUT", "/drives/disk", disk);
    await this.takes("PUT", "/network-interfaces/net", card);
    await this.takes("PUT", "/actions", { action_type: "InstanceStart" });
  }

  files(state: string, memory: string): object {
    return { snapshot_path: this.path(state), mem_file_path: this.path(memory) };
  }

  async exited(): Promise<unknown> {
    if (this.#child.exitCode !== null) return this.#child.exitCode;
    return ((await once(this.#child, "exit")) as unknown[])[0];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#namespace[Symbol.dispose]();
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    this.#child.kill("SIGKILL");
    await once(this.#child, "exit");
  }
}

for (const { name, program, options } of both) {
  test(`before it is started a VM is configured, and nothing else: ${name}`, options, async () => {
    await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-fake-"));
    await using fake = await Fake.start(folder.path, program);
    const { body: version } = await fake.ask("GET", "/version");
    const { firecracker_version: release } = version;
    assert.match(String(release), program === undefined ? /^1\.16\.1$/ : /^1\.\d+\.\d+/);
    assert.deepEqual((await fake.ask("GET", "/")).body, {
      app_name: "Firecracker",
      id: "fake",
      state: "Not started",
      vmm_version: release,
    });
    const notYet = /not supported before starting the microVM/;
    await fake.refuses(notYet, "PATCH", "/vm", { state: "Paused" });
    await fake.refuses(notYet, "PUT", "/snapshot/create", fake.files("state", "memory"));
    await fake.refuses(notYet, "PATCH", "/drives/disk", { drive_id: "disk" });
    await fake.refuses(/Cannot start microvm without kernel/, "PUT", "/actions", {
      action_type: "InstanceStart",
    });
  });

  test(
    `a request that is not as it should be is refused as a whole: ${name}`,
    options,
    async () => {
      await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-fake-"));
      await using fake = await Fake.start(folder.path, program);
      const json = "An error occurred when deserializing the json body of a request: ";
      const machine = { vcpu_count: 1, mem_size_mib: 128 };
      const put = async (words: string, path: string, body?: object | string): Promise<void> =>
        await fake.refuses(new RegExp(words), "PUT", path, body);
      await put(`${json}unknown field \`more\``, "/machine-config", { ...machine, more: 1 });
      await put(`${json}missing field \`vcpu_count\``, "/machine-config", { mem_size_mib: 128 });
      await put(`${json}invalid value`, "/machine-config", { ...machine, vcpu_count: 300 });
      await put("config error: The number of vCPUs must be", "/machine-config", {
        ...machine,
        vcpu_count: 33,
      });
      await put(`${json}invalid type: string`, "/machine-config", { ...machine, smt: "yes" });
      await put(`${json}unknown variant \`Off\``, "/actions", { action_type: "Off" });
      await put(`${json}expected value`, "/machine-config", "xyz");
      await put("Empty PUT request", "/machine-config");
      await put("Invalid request method and/or path: PUT nowhere", "/nowhere", {});
      await put("id from the path does not match", "/drives/one", {
        drive_id: "other",
        is_root_device: false,
      });
      const nowhere = fake.path("nowhere");
      await put(
        "Boot source error: The kernel file cannot be opened: No such file",
        "/boot-source",
        {
          kernel_image_path: nowhere,
        },
      );
      await put("Drive config error.*No such file", "/drives/one", {
        drive_id: "one",
        is_root_device: false,
        path_on_host: nowhere,
      });
      await put("either `mem_backend` or `mem_file_path`", "/snapshot/load", {
        snapshot_path: "/s",
      });
      const load = {
        snapshot_path: "/s",
        mem_backend: { backend_type: "File", backend_path: "/m" },
      };
      if (program === undefined) {
        await put("unknown field `huge_pages`", "/snapshot/load", { ...load, huge_pages: "None" });
      }
      await put("unknown field `why`", "/snapshot/load", {
        ...load,
        mem_backend: { ...load.mem_backend, why: 1 },
      });
    },
  );
}

test("a VM is saved while it stands still, and loaded into a fresh process", asRoot, async () => {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-fake-"));
  await using fake = await Fake.start(folder.path);
  await fake.boot();
  const files = fake.files("state", "memory");
  const tooLate = /not supported after starting the microVM/;
  await fake.refuses(tooLate, "PUT", "/machine-config", { vcpu_count: 1, mem_size_mib: 1 });
  await fake.refuses(/unavailable while running/, "PUT", "/snapshot/create", files);
  await fake.takes("PATCH", "/vm", { state: "Paused" });
  await fake.takes("PATCH", "/vm", { state: "Paused" });
  assert.equal((await fake.ask("GET", "/")).body["state"], "Paused");
  await fake.takes("PUT", "/snapshot/create", files);
  assert.equal((await stat(fake.path("memory"))).size, memoryMiB * 2 ** 20);
  await fake.takes("PATCH", "/vm", { state: "Resumed" });
  await sleep(50);
  await fake.takes("PATCH", "/vm", { state: "Paused" });
  // A diff into another file has what changed, and holes.
  const diff = { ...fake.files("state2", "diff"), snapshot_type: "Diff" };
  await fake.takes("PUT", "/snapshot/create", diff);
  const fd = openSync(fake.path("diff"), "r");
  const changed = dataRanges(fd).reduce((sum, { start, end }) => sum + end - start, 0);
  closeSync(fd);
  assert.ok(changed > 0 && changed < memoryMiB * 2 ** 19, `${changed} bytes`);
  const backend = { backend_type: "File", backend_path: fake.path("memory") };
  const load = { snapshot_path: fake.path("state"), mem_backend: backend };
  await fake.refuses(tooLate, "PUT", "/snapshot/load", load);

  await using next = await Fake.start(folder.path);
  const overridden = { ...load, network_overrides: [{ iface_id: "eth9", host_dev_name: "tap0" }] };
  await next.refuses(/Unknown Network Device/, "PUT", "/snapshot/load", overridden);
  assert.equal(await next.exited(), 1, "a load that failed ends the process");

  await using configured = await Fake.start(folder.path);
  await configured.takes("PUT", "/entropy", {});
  await configured.refuses(/not allowed after configuring/, "PUT", "/snapshot/load", load);

  await using wrong = await Fake.start(folder.path);
  const other = { ...load, mem_backend: { ...backend, backend_path: fake.path("diff") } };
  await wrong.refuses(/FAKE: the memory is not the one/, "PUT", "/snapshot/load", other);

  await using woken = await Fake.start(folder.path);
  await woken.takes("PUT", "/snapshot/load", load);
  assert.equal((await woken.ask("GET", "/")).body["state"], "Paused");
  await woken.takes("PATCH", "/vm", { state: "Resumed" });
  const memory = await readFile(fake.path("memory"));
  assert.equal(memory.length, memoryMiB * 2 ** 20, "the file it maps is as it was");
});
