/**
 * Several clients ask a daemon for random things, and it is killed at a random moment, again and again. After
 * each start what is there is compared with what the clients were told:
 *
 *     what was acknowledged is there          made, removed, put to sleep
 *     what was not has happened or has not    its repeat, with the same Idempotency-Key, finds out which
 *     nothing is there twice                  every sandbox and snapshot is one that somebody asked for
 *     nothing is left                         files that no record leads to, folders, VMs
 *
 * A seed decides what is asked for and when the kill comes; what that meets depends on the machine, too.
 */
import assert from "node:assert/strict";
import { readFile, readdir } from "node:fs/promises";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { setTimeout as sleep } from "node:timers/promises";
import { parseJson } from "@torpor/std";
import { type SnapshotManifest, stateFiles } from "@torpor/storage";
import { type ApiAnswer, DaemonApi, type SandboxInfo, type StateFolder } from "@torpor/testing";
import { Random } from "../model/random.ts";
import { KilledDaemon, type VmKind } from "./killed-daemon.ts";

/** LIMIT: of sandboxes at a time; beyond it clients only remove. */
const sandboxesMax = 24;
const snapshotsMax = 12;
const filesMs = 20_000;
const pollMs = 20;

export interface CampaignOptions {
  readonly vms: VmKind;
  readonly state: StateFolder;
  readonly settings: Readonly<Record<string, string>>;
  readonly seed: number;
  readonly clients: number;
  /** A daemon is killed a moment after so many answers at most. */
  readonly answersMax: number;
  /** The length of that moment, at most. */
  readonly momentMsMax: number;
}

type Verb = "create" | "pause" | "resume" | "fork" | "snapshot" | "remove" | "remove snapshot";

/** What one client asks for; undefined where the verb has no use for it. */
interface Wish {
  readonly verb: Verb;
  readonly key: string;
  /** A sandbox, or a named snapshot that is removed or made from. */
  readonly id: string | undefined;
  readonly count: number;
}

/** What is known of a sandbox by what clients were told. */
type Known = "running" | "paused" | "failed";

const weights: Readonly<Record<Verb, number>> = {
  create: 4,
  pause: 5,
  resume: 5,
  fork: 1,
  snapshot: 2,
  remove: 3,
  "remove snapshot": 1,
};

export class KillCampaign {
  readonly #options: CampaignOptions;
  readonly #random: Random;
  readonly #api: DaemonApi;
  readonly #sandboxes = new Map<string, Known>();
  readonly #snapshots = new Set<string>();
  /** Sandboxes that some client is at. */
  readonly #busy = new Set<string>();
  /** Asked for and not answered when the daemon died. */
  #open: Wish[] = [];
  #keys = 0;
  #answered = 0;
  #isOver = false;
  kills = 0;
  readonly answers: Record<string, number> = {};

  constructor(options: CampaignOptions) {
    this.#options = options;
    this.#random = new Random(options.seed);
    this.#api = new DaemonApi(options.state.socketPath);
  }

  /** One life of the daemon, and a look at what it left. @throws with its log what is not as it should be */
  async round(): Promise<void> {
    // Now and then it is killed while it settles what the last kill left.
    while (this.#random.chance(5)) await this.#killWhileStarting();
    await using daemon = this.#start();
    try {
      await daemon.untilServing();
      await this.#compare();
      this.#isOver = false;
      const clients = Array.from({ length: this.#options.clients }, () => this.#client());
      await Promise.race([this.#untilKill(), Promise.all(clients)]);
      this.#isOver = true;
      await daemon.kill();
      this.kills += 1;
      await Promise.all(clients);
    } catch (cause) {
      const told = JSON.stringify({
        seed: this.#options.seed,
        kills: this.kills,
        open: this.#open,
      });
      throw new Error(`${told}\n${daemon.log}`, { cause });
    }
  }

  /** All that sleeps wakes; then everything is removed, and nothing is left. */
  async end(): Promise<void> {
    await using daemon = this.#start();
    await daemon.untilServing();
    await this.#compare();
    for (const [id, known] of this.#sandboxes) {
      if (known === "paused") await this.#expect(201, "POST", `/v2/sandboxes/${id}/connect`, {});
    }
    for (const id of this.#sandboxes.keys()) await this.#expect(204, "DELETE", `/sandboxes/${id}`);
    for (const id of this.#snapshots) await this.#expect(204, "DELETE", `/templates/${id}`);
    await daemon.stop();
  }

  /** After some answers, because how many there are in a time depends on the machine. */
  async #untilKill(): Promise<void> {
    const last = this.#answered + this.#random.below(this.#options.answersMax);
    while (this.#answered < last) await sleep(1);
    await sleep(this.#random.below(this.#options.momentMsMax));
  }

  #start(): KilledDaemon {
    const { vms, state, settings } = this.#options;
    return new KilledDaemon(vms, state, settings);
  }

  async #killWhileStarting(): Promise<void> {
    await using daemon = this.#start();
    await sleep(this.#random.below(1_500));
    await daemon.kill();
    this.kills += 1;
  }

  async #client(): Promise<void> {
    while (!this.#isOver) {
      const wish = this.#wish();
      if (wish === undefined) {
        await sleep(1);
        continue;
      }
      const { id } = wish;
      if (id !== undefined) this.#busy.add(id);
      this.#open.push(wish);
      try {
        this.#note(wish, await this.#ask(wish));
        this.#open = this.#open.filter((one) => one !== wish);
      } catch (cause) {
        if (!this.#isOver) throw cause;
        return; // killed
      } finally {
        if (id !== undefined) this.#busy.delete(id);
      }
    }
  }

  #wish(): Wish | undefined {
    const isFull = this.#sandboxes.size >= sandboxesMax;
    const verb = isFull ? "remove" : this.#random.weighted(weights);
    const id = this.#targetOf(verb);
    if (id === undefined && verb !== "create") return undefined;
    this.#keys += 1;
    const key = `${this.#options.seed}-${this.#keys}`;
    return { verb, key, id, count: 1 + this.#random.below(3) };
  }

  #targetOf(verb: Verb): string | undefined {
    if (verb === "snapshot" && this.#snapshots.size >= snapshotsMax) return undefined;
    const isOfSnapshot =
      verb === "remove snapshot" || (verb === "create" && this.#random.chance(3));
    if (verb === "create" && !isOfSnapshot) return undefined;
    const wanted: Partial<Record<Verb, readonly Known[]>> = {
      pause: ["running"],
      resume: ["paused", "failed"],
      fork: ["running", "paused"],
      snapshot: ["running", "paused"],
    };
    const fit = isOfSnapshot
      ? [...this.#snapshots]
      : [...this.#sandboxes].flatMap(([id, known]) =>
          wanted[verb]?.includes(known) === false ? [] : [id],
        );
    const free = fit.filter((id) => !this.#busy.has(id));
    return free[this.#random.below(Math.max(1, free.length))];
  }

  async #ask({ verb, key, id, count }: Wish): Promise<ApiAnswer> {
    const sandbox = `/sandboxes/${id}`;
    const created = { templateID: id ?? "base", timeoutMs: null, metadata: { wish: key } };
    const requests: Readonly<Record<Verb, readonly [method: string, path: string, body?: object]>> =
      {
        create: ["POST", "/v2/sandboxes", created],
        pause: ["POST", `${sandbox}/pause`, {}],
        resume: ["POST", `/v2${sandbox}/connect`, { keepTimeout: true }],
        fork: ["POST", `${sandbox}/fork`, { count, timeoutMs: null }],
        snapshot: ["POST", `${sandbox}/snapshots`, {}],
        remove: ["DELETE", sandbox],
        "remove snapshot": ["DELETE", `/templates/${id}`],
      };
    const [method, path, body] = requests[verb];
    return await this.#api.exchange(method, path, body, { "idempotency-key": key });
  }

  /** What clients know from here on. */
  #note({ verb, id = "" }: Wish, { status, text }: ApiAnswer): void {
    this.#answered += 1;
    const name = `${verb} ${status}`;
    this.answers[name] = (this.answers[name] ?? 0) + 1;
    // One that failed and has no snapshot cannot wake.
    if (verb === "resume" && status === 409 && this.#sandboxes.get(id) === "failed") return;
    assert.ok(status < 300, `${verb} of ${id}: ${status} ${text}`);
    if (verb === "pause") this.#sandboxes.set(id, "paused");
    if (verb === "resume") this.#sandboxes.set(id, "running");
    if (verb === "remove") this.#sandboxes.delete(id);
    if (verb === "remove snapshot") this.#snapshots.delete(id);
    if (verb === "snapshot") this.#snapshots.add(idIn(text, "snapshotID"));
    if (verb === "create") this.#sandboxes.set(idIn(text, "sandboxID"), "running");
    if (verb === "fork")
      for (const child of childrenIn(text)) this.#sandboxes.set(child, "running");
  }

  async #compare(): Promise<void> {
    const open = this.#open;
    this.#open = [];
    this.#busy.clear();
    const infos = new Map((await this.#api.list()).map((info) => [info.id, info]));
    const isOpen = (id: string, ...verbs: readonly Verb[]): boolean =>
      open.some((wish) => wish.id === id && verbs.includes(wish.verb));
    for (const [id, known] of this.#sandboxes) {
      const info = infos.get(id);
      if (info === undefined) {
        assert.ok(isOpen(id, "remove"), `${id}, ${known}, is gone, and nobody asked for that`);
        this.#sandboxes.delete(id);
        continue;
      }
      this.#sandboxes.set(id, this.#settled(info, known, isOpen(id, "pause", "resume")));
    }
    await this.#compareSnapshots(open);
    for (const wish of open) await this.#repeat(wish);
    await this.#nothingElse();
    await this.#files();
  }

  #settled({ id, state, reason }: SandboxInfo, known: Known, isInDoubt: boolean): Known {
    const ran: Known = this.#options.vms === "fake" ? "failed" : "running";
    const expected = known === "running" ? ran : known;
    const may: readonly string[] = isInDoubt ? ["paused", "failed", ran] : [expected];
    assert.ok(may.includes(state), `${id} was ${known} and is ${state}: ${reason}`);
    return state as Known;
  }

  async #compareSnapshots(open: readonly Wish[]): Promise<void> {
    const there = await this.#snapshotIds();
    for (const id of this.#snapshots) {
      if (there.has(id)) continue;
      const isAsked = open.some((wish) => wish.id === id && wish.verb === "remove snapshot");
      assert.ok(isAsked, `snapshot ${id} is gone, and nobody asked for that`);
      this.#snapshots.delete(id);
    }
  }

  /** As clients do that were not answered. */
  async #repeat(wish: Wish): Promise<void> {
    const { verb, id } = wish;
    if (verb !== "create" && verb !== "fork" && verb !== "snapshot") return;
    const answer = await this.#ask(wish);
    if (answer.status === 409 || answer.status === 404) {
      // What it would be made of runs no more, or is gone; then nothing of it may be there.
      assert.ok(id !== undefined, `${verb}: ${answer.status} ${answer.text}`);
      return;
    }
    const before = new Set(this.#sandboxes.keys());
    this.#note(wish, answer);
    // One that was made before the kill has been through it since.
    for (const info of await this.#api.list()) {
      if (before.has(info.id) || !this.#sandboxes.has(info.id)) continue;
      assert.ok(["running", "failed"].includes(info.state), `${info.id} is ${info.state}`);
      this.#sandboxes.set(info.id, info.state as Known);
    }
  }

  async #nothingElse(): Promise<void> {
    const ids = (await this.#api.list()).map((info) => info.id);
    assert.deepEqual(ids.toSorted(), [...this.#sandboxes.keys()].toSorted(), "sandboxes");
    const { text } = await this.#api.call("GET", "/v2/sandboxes?limit=100");
    const awake = (await this.#api.list()).filter(({ state }) => state !== "failed");
    const listed = (parseJson(text, "list") as { sandboxID: string }[]).map((one) => one.sandboxID);
    const missing = awake.map((one) => one.id).filter((id) => !listed.includes(id));
    assert.deepEqual(missing, [], "both lists say the same");
    const there = [...(await this.#snapshotIds())];
    assert.deepEqual(there.toSorted(), [...this.#snapshots].toSorted(), "snapshots");
  }

  async #snapshotIds(): Promise<ReadonlySet<string>> {
    const { text } = await this.#api.call("GET", "/snapshots?limit=100");
    const list = parseJson(text, "snapshots") as { snapshotID: string }[];
    return new Set(list.map((one) => one.snapshotID.split(":")[0] ?? ""));
  }

  /** Exactly what records lead to, once what was left is collected. */
  async #files(): Promise<void> {
    const { state, vms } = this.#options;
    const untilMonoMs = performance.now() + filesMs;
    for (;;) {
      try {
        // A fold may give up a snapshot between the look at the database and that at its manifest.
        assert.deepEqual(await this.#there(), await neededIn(state.path));
        break;
      } catch (cause) {
        if (performance.now() > untilMonoMs) throw cause;
        await sleep(pollMs);
      }
    }
    if (vms === "fake") return;
    const running = [...this.#sandboxes.values()].filter((known) => known === "running");
    assert.equal((await state.vms()).length, running.length, "VMs");
  }

  async #there(): Promise<Files> {
    const { path } = this.#options.state;
    return {
      snapshots: (await readdir(join(path, stateFiles.snapshots))).toSorted(),
      disks: (await readdir(join(path, stateFiles.disks))).toSorted(),
      sandboxes: (await readdir(join(path, stateFiles.sandboxes))).toSorted(),
    };
  }

  async #expect(status: number, method: string, path: string, body?: object): Promise<void> {
    const answer = await this.#api.exchange(method, path, body);
    assert.equal(answer.status, status, `${method} ${path}: ${answer.text}`);
  }
}

interface Files {
  readonly snapshots: readonly string[];
  readonly disks: readonly string[];
  readonly sandboxes: readonly string[];
}

interface Row {
  readonly id: string;
  readonly snapshot_id: string | null;
  readonly previous_snapshot_id: string | null;
  readonly state: string;
  readonly disk_layers: string;
}

/** Read without the code that is tested, from the database and the manifests. */
async function neededIn(path: string): Promise<Files> {
  using database = new DatabaseSync(join(path, stateFiles.database), { readOnly: true });
  const rows = database.prepare("SELECT * FROM sandboxes").all() as unknown as Row[];
  const named = database.prepare("SELECT id FROM snapshots").all() as unknown as { id: string }[];
  const roots = new Set(named.map(({ id }) => id));
  const disks = new Set<string>();
  for (const row of rows) {
    const state = parseJson(row.state, "state") as { openDisks?: string[]; pagedFrom?: string };
    const ids = [row.snapshot_id, row.previous_snapshot_id, state.pagedFrom ?? null];
    for (const id of ids) if (id !== null) roots.add(id);
    const layers = parseJson(row.disk_layers, "layers") as string[];
    for (const id of [...layers, ...(state.openDisks ?? [])]) disks.add(id);
  }
  const snapshots = new Set(roots);
  for (const id of roots) {
    const file = join(path, stateFiles.snapshots, id, "manifest.json");
    const { manifest } = parseJson(await readFile(file, "utf8"), file) as {
      manifest: SnapshotManifest;
    };
    for (const { layerId } of manifest.disk) disks.add(layerId);
    if (manifest.memory.kind !== "layers") continue;
    for (const { snapshotId } of manifest.memory.layers) snapshots.add(snapshotId);
  }
  return {
    snapshots: [...snapshots].toSorted(),
    disks: [...disks].map((id) => `${id}.qcow2`).toSorted(),
    sandboxes: rows.map(({ id }) => id).toSorted(),
  };
}

function idIn(text: string, name: "sandboxID" | "snapshotID"): string {
  const id = (parseJson(text, "answer") as Record<string, unknown>)[name];
  assert.ok(typeof id === "string", text);
  return id.split(":")[0] ?? "";
}

function childrenIn(text: string): readonly string[] {
  const results = parseJson(text, "answer") as { sandbox?: { sandboxID: string } }[];
  return results.flatMap(({ sandbox }) => (sandbox === undefined ? [] : [sandbox.sandboxID]));
}
