/**
 * Plays a script in a world, turn by turn, and has the referee judge each. After each the world itself is
 * looked through: sealed layers, what a host did to VMs, and whether all files are there that are needed.
 */
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import type { Sandbox } from "@torpor/host";
import { assertNever } from "@torpor/std";
import type { FakeProcess } from "@torpor/testing";
import type { Victims } from "./daemon-life.ts";
import type { Answer, Content, Happening } from "./model.ts";
import { Observer, templateContent, vmOf } from "./observe.ts";
import { Referee } from "./referee.ts";
import {
  type DaemonEvent,
  type Mishap,
  type Operation,
  type Script,
  type Targeted,
  type Turn,
  type Write,
  diskCells,
  memoryCells,
} from "./script.ts";
import { type Ongoing, type Played, answerOf } from "./turn.ts";
import { type World, makeWorld, templateName } from "./world.ts";

/** LIMIT: how long a world may take to come to rest after a turn, on a machine that is busy. */
const restMsMax = 5_000;
const pollMs = 1;
/** The time that one has left whose time is to be over. */
const expiryMs = 1;
/** A daemon that settles what another left passes about so many points. */
const settlingPoints = 20;

/** Plays it to its end. @throws what the referee or an assertion has against it */
export async function play(script: Script, restMs = restMsMax): Promise<void> {
  await using world = await makeWorld(script.saveWhole);
  const player = new Player(world, restMs);
  await player.begin();
  for (const turn of script.turns) await player.take(turn);
  await player.end();
}

class Player implements Victims {
  readonly #world: World;
  readonly #observer: Observer;
  readonly #referee: Referee;
  readonly #restMs: number;
  #texts = 0;
  /** Of the turn that is played. */
  #turn: Turn = { operations: [] };
  #ongoing: Ongoing[] = [];
  readonly #befell = new Map<string, Happening>();
  #hasMishapped = false;
  #isReopened = false;
  #portsLostBefore = 0;

  constructor(world: World, restMs: number) {
    this.#world = world;
    this.#restMs = restMs;
    this.#observer = new Observer(world);
    this.#referee = new Referee(this.#observer);
  }

  async begin(): Promise<void> {
    await this.#world.start(this);
  }

  async take(turn: Turn): Promise<void> {
    this.#turn = turn;
    this.#ongoing = [];
    this.#befell.clear();
    this.#hasMishapped = false;
    this.#isReopened = false;
    this.#portsLostBefore = this.#world.machine.portsLost;
    try {
      if (turn.daemon === undefined) await this.#operate(turn);
      else await this.#turnOver(turn.daemon);
      await this.#look();
    } catch (cause) {
      throw new Error(this.#story(), { cause });
    }
  }

  /** All that sleeps can be woken, and nothing is left of what is removed. */
  async end(): Promise<void> {
    await this.take({ operations: [], daemon: "restart" });
    const count = this.#referee.sandboxes.size;
    for (let target = 0; target < count; target += 1) {
      await this.take({ operations: [{ verb: "resume", target, epoch: "none" }] });
    }
    while (this.#referee.sandboxes.size > 0) {
      await this.take({ operations: [{ verb: "remove", target: 0, epoch: "none" }] });
    }
    while (this.#referee.named.size > 0) {
      await this.take({ operations: [{ verb: "remove snapshot", source: 1 }] });
    }
    await this.take({ operations: [], daemon: "restart" });
    assert.deepEqual(this.#world.machine.processes, [], "no VM is left");
  }

  /** Only a guest that ran before this turn: one that wakes answers for nothing yet. */
  scribble({ write }: Mishap): boolean {
    const id = this.#firstTarget;
    const process = id === undefined ? undefined : vmOf(this.#world, id);
    if (id === undefined || process?.isAwake !== true) return false;
    if (this.#referee.sandboxes.get(id)?.state !== "running") return false;
    this.#befell.set(id, this.#write(id, write, process));
    return true;
  }

  killVm(): boolean {
    const { machine } = this.#world;
    const id = this.#firstTarget;
    const process = id === undefined ? machine.processes.at(-1) : vmOf(this.#world, id);
    if (process === undefined) return false;
    const sandboxId = process.spec.name;
    machine.end(process, "killed on purpose");
    this.#befell.set(sandboxId, this.#happening({ verb: "VM dies" }, sandboxId));
    return true;
  }

  get #firstTarget(): string | undefined {
    return this.#ongoing.find(({ id }) => id !== undefined)?.id;
  }

  async #look(): Promise<void> {
    const { machine, sandboxes } = this.#world;
    const played = this.#played();
    await this.#eventually(async () => await this.#referee.judge(played));
    machine.checkSealed();
    assert.deepEqual(machine.accusations, [], "nothing was done that no host may do");
    // A daemon that starts collects; at other times what nobody needs may wait.
    if (this.#isReopened) await sandboxes.idle();
    const named = [...this.#referee.named.keys()];
    await this.#eventually(async () => await this.#observer.files(named, this.#isReopened));
  }

  #played(): Played {
    const isUnlucky = this.#world.machine.portsLost > this.#portsLostBefore;
    return {
      ongoing: this.#ongoing,
      befell: this.#befell,
      wrong: this.#hasMishapped ? this.#turn.mishap?.kind : isUnlucky ? "fail" : undefined,
      isReopened: this.#isReopened,
      wasOff: this.#turn.daemon === "power cut",
    };
  }

  /** What was asked for and answered in this turn, and what the daemon passed. */
  #story(): string {
    const answers = this.#ongoing.map(({ operation, id, answer }) => {
      return `${JSON.stringify(operation)} of ${id ?? "-"}: ${answer}`;
    });
    return [JSON.stringify(this.#turn), ...answers, ...this.#world.life.points].join("\n");
  }

  async #turnOver(event: DaemonEvent): Promise<void> {
    const { machine, sandboxes, life } = this.#world;
    if (event === "idle") {
      life.arm(this.#turn.mishap);
      await Promise.race([sandboxes.idle(), life.died]);
      await this.#endMishap();
      return;
    }
    this.#isReopened = true;
    if (event === "restart") await this.#world.stop();
    else await this.#world.kill();
    if (event === "power cut") for (const process of machine.processes) machine.end(process);
    await this.#world.start(this);
  }

  async #operate({ operations, mishap }: Turn): Promise<void> {
    const { life } = this.#world;
    const ids = [...this.#referee.sandboxes.keys()];
    life.arm(mishap);
    for (const operation of operations) {
      // Where there is no sandbox none can be meant.
      if ("target" in operation && ids.length === 0) continue;
      this.#ongoing.push(this.#begin(operation, ids));
    }
    for (const one of this.#ongoing) {
      const lost = life.died.then((): Answer => "lost");
      one.answer = await Promise.race([one.promise, lost]);
    }
    await this.#endMishap();
  }

  /** It has happened, or does not happen any more. */
  async #endMishap(): Promise<void> {
    const { life } = this.#world;
    life.disarm();
    this.#hasMishapped = life.hasMishapped;
    if (life.isDead) await this.#reopen();
  }

  async #reopen(): Promise<void> {
    const { mishap } = this.#turn;
    this.#isReopened = true;
    await this.#world.kill();
    if (mishap?.kind === "crash twice") {
      await this.#world.start(this, { ...mishap, at: mishap.at % settlingPoints });
      await this.#world.kill();
    }
    await this.#world.start(this);
    // Where its time is over the new daemon sees to it.
    for (const { id, operation } of this.#ongoing) {
      const sandbox = this.#world.sandboxes.all().find(({ record }) => record.id === id);
      if (operation.verb === "expire" && sandbox !== undefined) await this.#untilExpired(sandbox);
    }
  }

  #begin(operation: Operation, ids: readonly string[]): Ongoing {
    const made: string[] = [];
    const common = { operation, made, answer: "lost" as const };
    if ("target" in operation) {
      const id = ids[operation.target % ids.length] ?? "";
      const promise = answerOf(this.#target(operation, id, made));
      const happening = this.#happening(operation, id);
      return { ...common, id, happening, snapshotId: undefined, promise };
    }
    // Number 0 is the template.
    const snapshotIds = [undefined, ...this.#referee.named.keys()];
    const snapshotId = snapshotIds[operation.source % snapshotIds.length];
    const promise = answerOf(
      operation.verb === "create"
        ? this.#create(snapshotId, operation.onTimeout, made)
        : this.#removeSnapshot(snapshotId),
    );
    return { ...common, id: undefined, happening: undefined, snapshotId, promise };
  }

  async #create(
    snapshotId: string | undefined,
    onTimeout: "kill" | "pause",
    made: string[],
  ): Promise<void> {
    const { sandbox } = await this.#world.sandboxes.create({
      template: snapshotId ?? templateName,
      metadata: {},
      envVars: {},
      lifetime: { timeoutMs: null, onTimeout },
    });
    made.push(sandbox.record.id);
  }

  async #removeSnapshot(snapshotId: string | undefined): Promise<void> {
    if (snapshotId !== undefined) await this.#world.sandboxes.removeSnapshot(snapshotId);
  }

  async #target(operation: Targeted, id: string, made: string[]): Promise<void> {
    const { sandboxes, machine } = this.#world;
    const sandbox = sandboxes.get(id);
    const command = commandOf(operation, sandbox);
    switch (operation.verb) {
      case "pause":
        await sandbox.pause(command);
        return;
      case "resume":
        await sandbox.resume({ ...command, timeoutMs: null });
        return;
      case "resume previous":
        await sandbox.resume({ ...command, previous: true });
        return;
      case "fork":
        await this.#fork(operation.count, sandbox, command, made);
        return;
      case "snapshot":
        await sandboxes.takeSnapshot(id, operation.name, command);
        return;
      case "remove":
        await sandboxes.remove(id, command);
        return;
      case "set timeout":
        await sandbox.setTimeoutMs(operation.timeoutMs);
        return;
      case "expire":
        await sandbox.setTimeoutMs(expiryMs);
        await this.#untilExpired(sandbox);
        return;
      case "write": {
        const process = vmOf(this.#world, id);
        if (process === undefined || this.#referee.sandboxes.get(id)?.state !== "running") return;
        this.#befell.set(id, this.#write(id, operation.write, process));
        return;
      }
      case "VM dies": {
        const process = vmOf(this.#world, id);
        if (process !== undefined) machine.end(process, "it was time");
        return;
      }
      default:
        assertNever(operation);
    }
  }

  async #fork(
    count: number,
    { record }: Sandbox,
    command: { readonly epoch?: number },
    made: string[],
  ): Promise<void> {
    const request = { count, lifetime: {} };
    const { children } = await this.#world.sandboxes.fork(record.id, request, command);
    for (const child of children) {
      if (child.status === "fulfilled") made.push(child.value.sandbox.record.id);
    }
  }

  /** Waits until the end of its time was seen to; then it has all the time there is. */
  async #untilExpired(sandbox: Sandbox): Promise<void> {
    const { sandboxes } = this.#world;
    await this.#eventually(async () => {
      await Promise.resolve();
      const isMissed = sandboxes.missedDeadline(sandbox) !== undefined;
      const { endAtMs } = sandbox.record.lifetime;
      // Another operation of this turn may have given it more.
      const hasTime = endAtMs === null || endAtMs > Date.now() + expiryMs;
      const isOver = sandbox.run === undefined || hasTime;
      assert.ok(isOver || isMissed, "its time is over, and it runs");
    });
    await sandbox.setTimeoutMs(null).catch(() => undefined); // one that is gone has no time
  }

  #write(id: string, write: Write, { memory, disk }: FakeProcess): Happening {
    const page = memoryCells[write.memoryCell] ?? 0;
    const cluster = diskCells[write.diskCell] ?? 0;
    const text = write.value === "new" ? `text ${++this.#texts}` : "";
    const isImage = write.value === "image";
    const inMemory = isImage ? (templateContent.memory[write.memoryCell] ?? "") : text;
    const onDisk = isImage ? (templateContent.disk[write.diskCell] ?? "") : text;
    memory.writePage(page, inMemory);
    disk.write(cluster, onDisk);
    const written = (content: Content): Content => ({
      memory: content.memory.with(write.memoryCell, inMemory),
      disk: content.disk.with(write.diskCell, onDisk),
    });
    return { ...this.#happening({ verb: "write", write }, id), written };
  }

  #happening(operation: Targeted, id: string): Happening {
    const sandbox = this.#world.sandboxes.all().find(({ record }) => record.id === id);
    return {
      operation,
      onTimeout: sandbox?.record.lifetime.onTimeout ?? "kill",
      mayBeLate: this.#turn.operations.length > 1,
      written: (content) => content,
    };
  }

  /** Until it holds: news of a VM's end, and what is done in the background, take their time. */
  async #eventually(look: () => Promise<void>): Promise<void> {
    const untilMs = performance.now() + this.#restMs;
    for (;;) {
      try {
        await look();
        return;
      } catch (cause) {
        if (performance.now() > untilMs) throw cause;
        await sleep(pollMs);
      }
    }
  }
}

function commandOf(operation: Targeted, { record }: Sandbox): { readonly epoch?: number } {
  const epoch = "epoch" in operation ? operation.epoch : "none";
  if (epoch === "none") return {};
  return { epoch: epoch === "right" ? record.generation : record.generation - 1 };
}
