/**
 * `commands.run("true")` through the published SDK and the edge, against the same process started
 * by the same Connect call sent straight to the agent, over a connection into the guest's own
 * network, without daemon, edge and SDK. In turns, in one sandbox; both keep their connections.
 */
import { GuestLink, processClient } from "@torpor/guest";
import { Sandbox } from "e2b";
import { runToEnd } from "./bench-daemon.ts";
import { canDial, dialInto, vmPid } from "./guest-dialling.ts";
import { type Row, atMost, quantile } from "./row.ts";
import { openSdkDaemon, parseSandbox, requestSandbox } from "./sdk-daemon.ts";
import { timed } from "./timing.ts";

const rounds = 300;
/** Both sides first pay for what is done once. */
const warmUpRounds = 20;
const createBudgetMs = 60_000;
/** The command that the SDK makes of `true`. */
const command = ["/bin/bash", "-l", "-c", "true"] as const;

/** Measures both ways; no rows without root. */
export async function measureCommands(): Promise<readonly Row[]> {
  if (!canDial) {
    process.stderr.write("commands: no rows without root, who alone can dial a guest directly\n");
    return [];
  }
  await using undo = new AsyncDisposableStack();
  const daemon = await openSdkDaemon(undo);
  const answer = await requestSandbox(daemon, createBudgetMs);
  const { id, accessToken } = parseSandbox(await answer.text());
  const sandbox = await Sandbox.connect(id);
  const dial = dialInto(await vmPid(daemon, id), undo);
  const direct = processClient(undo.use(new GuestLink({ dial, hostKey: "" })), accessToken);
  const times: Record<"sdk" | "agent", number[]> = { sdk: [], agent: [] };
  for (let round = 0; round < warmUpRounds + rounds; round += 1) {
    const sdk = await timed(() => sandbox.commands.run("true"));
    const agent = await timed(() => runToEnd(direct, ...command));
    if (round < warmUpRounds) continue;
    times.sdk.push(sdk);
    times.agent.push(agent);
  }
  const [sdkHalf, sdkMost] = [quantile(times.sdk, 0.5), quantile(times.sdk, 0.99)];
  const [agentHalf, agentMost] = [quantile(times.agent, 0.5), quantile(times.agent, 0.99)];
  return [
    { row: "a command by the SDK, p50", value: sdkHalf, unit: "ms" },
    { row: "a command by the SDK, p99", value: sdkMost, unit: "ms" },
    { row: "a command by the agent alone, p50", value: agentHalf, unit: "ms" },
    { row: "a command by the agent alone, p99", value: agentMost, unit: "ms" },
    { row: "the SDK and the edge add to a command, p50", value: sdkHalf - agentHalf, unit: "ms" },
    atMost("SDK against agent alone, p50", sdkHalf / agentHalf, "times as long", 1.25),
    atMost("SDK against agent alone, p99", sdkMost / agentMost, "times as long", 2),
  ];
}
