/**
 * All sandboxes of this daemon: creation, look-up, and settling what an earlier daemon left.
 */
import { mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { Deadline, TorporError } from "@torpor/std";
import { SandboxFolder, type TemplateManifest, stateFiles } from "@torpor/storage";
import { newSandboxId, newSecret } from "./entropy.ts";
import type { HostContext } from "./host-context.ts";
import { type Outcome, Sandbox } from "./sandbox.ts";
import { Spares } from "./spares.ts";

const endStrayBudgetMs = 10_000;

export interface CreateRequest {
  /** Id or name of a template. */
  readonly template: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly envVars: Readonly<Record<string, string>>;
}

export class Sandboxes {
  readonly #host: HostContext;
  readonly #byId = new Map<string, Sandbox>();
  readonly #spares: Spares;

  private constructor(host: HostContext) {
    this.#host = host;
    this.#spares = new Spares(host, (manifest) => this.#newSandbox(manifest));
  }

  /** Opens the records and settles every sandbox in them before any request is taken. */
  static async open(host: HostContext): Promise<Sandboxes> {
    const sandboxes = new Sandboxes(host);
    const records = await host.records.all();
    for (const record of records) sandboxes.#byId.set(record.id, new Sandbox(host, record));
    await sandboxes.#endStrayVms();
    // One that cannot be settled must not keep the daemon from serving the others.
    await Promise.allSettled(sandboxes.all().map((sandbox) => sandbox.settle()));
    for (const record of records) sandboxes.#forgetIfRemoved(record.id);
    await sandboxes.#removeStrayFolders();
    return sandboxes;
  }

  all(): readonly Sandbox[] {
    return [...this.#byId.values()];
  }

  /** @throws sandbox.notFound */
  get(id: string): Sandbox {
    const sandbox = this.#byId.get(id);
    if (sandbox === undefined) {
      throw new TorporError("sandbox.notFound", `there is no sandbox ${id}`);
    }
    return sandbox;
  }

  /** @throws template.missing and whatever the steps of a wake throw; nothing is left then. */
  async create(request: CreateRequest): Promise<{ sandbox: Sandbox; outcome: Outcome }> {
    const { manifest } = await this.#host.templates.open(request.template);
    const spare = this.#spares.take(manifest);
    if (spare !== undefined) {
      try {
        return await this.#bring(spare, request);
      } catch (cause) {
        this.#host.log.warn("a spare sandbox was of no use; making another", { cause });
      }
    }
    return await this.#bring(this.#newSandbox(manifest), request);
  }

  async #bring(
    sandbox: Sandbox,
    { metadata, envVars }: CreateRequest,
  ): Promise<{ sandbox: Sandbox; outcome: Outcome }> {
    const { id } = sandbox.record;
    this.#byId.set(id, sandbox);
    try {
      return { sandbox, outcome: await sandbox.create({ metadata, envVars }) };
    } catch (cause) {
      this.#byId.delete(id);
      throw cause;
    }
  }

  #newSandbox(manifest: TemplateManifest): Sandbox {
    const now = Date.now();
    return new Sandbox(this.#host, {
      id: newSandboxId(),
      templateId: manifest.templateId,
      templateName: manifest.name,
      generation: 0,
      snapshotGeneration: null,
      state: { kind: "creating" },
      diskGenerations: [],
      hostKey: newSecret(),
      accessToken: newSecret(),
      metadata: {},
      envVars: {},
      createdAtMs: now,
      startedAtMs: now,
    });
  }

  /** @throws sandbox.notFound */
  async remove(id: string): Promise<Outcome> {
    const outcome = await this.get(id).remove();
    this.#byId.delete(id);
    return outcome;
  }

  get sparesReady(): number {
    return this.#spares.readyCount;
  }

  /** Makes spares of a template, so that the first request finds one. */
  async prepareSpares(template: string): Promise<void> {
    this.#spares.refill((await this.#host.templates.open(template)).manifest);
  }

  /** Lets go of all VMs, which go on running; spares are nobody's and end. */
  async release(): Promise<void> {
    await this.#spares.end();
    await Promise.allSettled(this.all().map((sandbox) => sandbox.release()));
  }

  /** Ends VM processes that no record claims, such as one started just before a crash. */
  async #endStrayVms(): Promise<void> {
    const claimed = new Set(
      this.all().flatMap(({ record: { state } }) => ("vm" in state ? [state.vm.pid] : [])),
    );
    const folder = join(this.#host.stateFolder, stateFiles.sandboxes);
    for (const stray of await this.#host.driver.processesBelow(folder)) {
      if (claimed.has(stray.pid)) continue;
      this.#host.log.warn("ending a VM that belongs to no sandbox", { pid: stray.pid });
      await stray.end(Deadline.after(endStrayBudgetMs, "ending a stray VM"));
    }
  }

  #forgetIfRemoved(id: string): void {
    if (this.#byId.get(id)?.record.state.kind === "removing") this.#byId.delete(id);
  }

  async #removeStrayFolders(): Promise<void> {
    const folder = join(this.#host.stateFolder, stateFiles.sandboxes);
    await mkdir(folder, { recursive: true, mode: 0o700 });
    for (const name of await readdir(folder)) {
      if (this.#byId.has(name)) continue;
      this.#host.log.warn("removing the folder of a sandbox that does not exist", { name });
      await rm(new SandboxFolder(this.#host.stateFolder, name).path, { recursive: true });
    }
  }
}
