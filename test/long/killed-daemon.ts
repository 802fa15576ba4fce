/** A daemon that is killed with SIGKILL at any moment, also before it serves, and started again. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { type StateFolder, waitUntil } from "@torpor/testing";

const programs = {
  fake: join(import.meta.dirname, "../../packages/testing/src/fake-vm-daemon.ts"),
  real: fileURLToPath(import.meta.resolve("@torpor/host/main")),
} as const;
const logLinesMax = 200;

export type VmKind = keyof typeof programs;

export class KilledDaemon implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #exited: Promise<unknown>;
  readonly #log: string[] = [];
  #isServing = false;

  constructor(vms: VmKind, state: StateFolder, settings: Readonly<Record<string, string>>) {
    this.#child = spawn(process.execPath, [programs[vms]], {
      stdio: ["ignore", "ignore", "pipe"],
      env: {
        ...process.env,
        TORPOR_HOME: state.path,
        TORPOR_KEY_FILE: state.keyFile,
        TORPOR_PORT: "0",
        TORPOR_SPARES: "0",
        ...settings,
      },
    });
    this.#exited = once(this.#child, "exit");
    const { stderr } = this.#child;
    if (stderr === null) throw new TypeError("the daemon has no log");
    createInterface({ input: stderr }).on("line", (line) => {
      this.#log.push(line);
      if (this.#log.length > logLinesMax) this.#log.shift();
      if (line.includes('"message":"serving"')) this.#isServing = true;
    });
  }

  /** The last it said. */
  get log(): string {
    return this.#log.join("\n");
  }

  /** @throws with its log when it ends, or does not serve in time */
  async untilServing(): Promise<void> {
    await waitUntil("the daemon serves", async () => {
      if (this.#child.exitCode !== null) throw new Error(`it did not start: ${this.log}`);
      return this.#isServing || undefined;
    });
  }

  async kill(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#exited;
  }

  async stop(): Promise<void> {
    this.#child.kill("SIGTERM");
    await this.#exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) await this.kill();
  }
}
