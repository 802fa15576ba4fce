/**
 * The guest daemon. The guest's init starts it as root, inside a cgroup of its own, and it is never
 * expected to end: an exit is a bug, and the reason is on standard error.
 *
 * Boot order:
 *   1. read the configuration;
 *   2. become the last victim of the OOM killer, so that a hungry workload cannot take the agent
 *      away;
 *   3. serve. The host polls `GET /health` and sends `init` as soon as it answers.
 */
// ORDER: first, because it gives the runtime the base64 that the RPC library looks for at its start.
// oxlint-disable-next-line no-unassigned-import -- wanted for its effect
import "@torpor/protocol";
import { jsonLogger } from "@torpor/std";
import { startAgent } from "./agent.ts";
import { configFromEnvironment } from "./config.ts";
import { realMachine } from "./machine.ts";

const log = jsonLogger((line) => process.stderr.write(line));

const config = configFromEnvironment(process.env);

await realMachine
  .protectAgent()
  .catch((cause: unknown) => log.warn("the agent may be killed when memory runs out", { cause }));

const agent = await startAgent({ config, machine: realMachine, log });

log.info("the agent is ready", { address: config.address, port: agent.port, pid: process.pid });
