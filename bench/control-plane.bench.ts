/**
 * The control plane by itself, over HTTP on the loopback, with sandboxes that are database rows
 * only: what it adds to the work of a VM. The clients share the machine with it.
 */
import { Agent, request } from "node:http";
import { parseObject, parseString, parseJson } from "@torpor/std";
import { type FakeApi, startFakeApi } from "../packages/host/src/api/fixtures.ts";
import { type Row, atLeast, atMost, median } from "./row.ts";

const clients = 16;
const pairs = 2_000;
const sleeping = 10_000;
const pageRounds = 21;

/** Measures the control plane's requests. */
export async function measureControlPlane(): Promise<readonly Row[]> {
  // The tests compare the answers with the document.
  const validator = { addSchema: () => undefined, compile: () => () => true };
  await using api = await startFakeApi({ validator });
  using agent = new KeepingAgent();
  await createAndKill(api, agent, pairs / 10);
  const startedMonoMs = performance.now();
  await createAndKill(api, agent, pairs);
  const pairsPerSecond = pairs / ((performance.now() - startedMonoMs) / 1000);
  return [
    atLeast("create and kill without a VM", pairsPerSecond, "a second", 500),
    atMost("a page of ten thousand that sleep", await pageMs(api, agent), "ms", 100),
  ];
}

class KeepingAgent extends Agent implements Disposable {
  constructor() {
    super({ keepAlive: true, maxSockets: clients });
  }

  [Symbol.dispose](): void {
    this.destroy();
  }
}

async function createAndKill(api: FakeApi, agent: Agent, count: number): Promise<void> {
  let left = count;
  const client = async (): Promise<void> => {
    while (left > 0) {
      left -= 1;
      const text = await call(api, agent, "POST", "/v2/sandboxes", { templateID: "base" });
      const { sandboxID } = parseObject(parseJson(text, "answer"), "answer");
      await call(api, agent, "DELETE", `/sandboxes/${parseString(sandboxID, "sandboxID")}`);
    }
  };
  await Promise.all(Array.from({ length: clients }, client));
}

async function pageMs(api: FakeApi, agent: Agent): Promise<number> {
  for (let index = 0; index < sleeping; index += 1) {
    api.sandboxes.add({ state: { kind: "paused" }, startedAtMs: index, snapshotId: "s" });
  }
  const times: number[] = [];
  for (let round = 0; round < pageRounds; round += 1) {
    const startedMonoMs = performance.now();
    await call(api, agent, "GET", "/v2/sandboxes?state=paused");
    times.push(performance.now() - startedMonoMs);
  }
  return median(times);
}

async function call(
  { port }: FakeApi,
  agent: Agent,
  method: string,
  path: string,
  body?: object,
): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const outgoing = request({ port, host: "127.0.0.1", agent, method, path }, (response) => {
    let text = "";
    response.setEncoding("utf8");
    response.on("data", (chunk: string) => (text += chunk));
    response.on("end", () => resolve(text));
  });
  outgoing.on("error", reject);
  outgoing.end(body === undefined ? undefined : JSON.stringify(body));
  return await promise;
}
