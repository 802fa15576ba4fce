/**
 * Puts the parts of the agent together and starts its server. Everything the agent holds is made
 * here, so a test may run as many agents as it likes in one process.
 */
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { ServerConnTracker } from "@torpor/conntracker";
import { type Failpoint, type Logger, assert } from "@torpor/std";
import { Accounts } from "./accounts.ts";
import type { AgentConfig } from "./config.ts";
import { FilesystemService } from "./filesystem-service.ts";
import { Gate } from "./gate.ts";
import { Hooks } from "./hooks.ts";
import { Identity } from "./identity.ts";
import type { Machine } from "./machine.ts";
import { MetricsReader } from "./metrics.ts";
import { ProcessService } from "./process-service.ts";
import { Quiescer } from "./quiesce.ts";
import { QuietTimers } from "./quiet-timers.ts";
import { createAgentServer, serveRequests } from "./server.ts";
import { serveTunnels } from "./tunnel.ts";
import { UserCgroup } from "./user-cgroup.ts";
import { UserEnvironment } from "./user-environment.ts";
import { Waker } from "./wake.ts";

/** Everything one agent needs from outside. */
export interface AgentOptions {
  readonly config: AgentConfig;
  readonly machine: Machine;
  readonly log: Logger;
  readonly accounts?: Accounts;
  readonly failpoint?: Failpoint;
}

/** A running agent. Disposing closes its server with all connections and watches. */
export interface Agent extends AsyncDisposable {
  /** The TCP port it listens on; the one the kernel chose if the configuration says 0. */
  readonly port: number;
}

/** Starts an agent; resolves when its server listens. */
export async function startAgent(options: AgentOptions): Promise<Agent> {
  const { config, machine, log, failpoint } = options;
  const accounts = options.accounts ?? new Accounts();
  const cgroup = config.userCgroup === null ? undefined : UserCgroup.open(config.userCgroup);
  if (cgroup === undefined) log.warn("no user cgroup: user processes will not be frozen");

  const timers = new QuietTimers();
  const gate = new Gate();
  const identity = Identity.open(config.identityPath);
  // An agent that died between a prepare and its end left user processes frozen; only this one can
  // thaw them.
  if (identity.current.generation > 0) cgroup?.thaw();
  const server = createAgentServer();
  const tracker = new ServerConnTracker(server);
  const environment = new UserEnvironment({ ...config, identity });
  const launching = { gate, cgroup, timers, config, identity, environment };
  const hooks = new Hooks({ ...launching, log });
  const shared = { gate, tracker, cgroup, timers, identity, machine, hooks, failpoint };
  const quiescer = new Quiescer(shared);
  const waker = new Waker({ ...shared, quiescer, config, log });
  const processes = new ProcessService({ ...launching, accounts });
  const files = new FilesystemService({ accounts, identity, timers });
  const metrics = new MetricsReader();
  serveRequests(server, {
    gate,
    identity,
    accounts,
    quiescer,
    waker,
    log,
    metrics,
    processes,
    files,
  });

  const tunnels = serveTunnels(server, { gate, identity });

  server.listen({ port: config.port, host: config.address, backlog: 511 });
  await once(server, "listening");
  const address: AddressInfo | string | null = server.address();
  assert(typeof address === "object" && address !== null, "a TCP server has an address");
  return {
    port: address.port,
    [Symbol.asyncDispose]: async () => {
      files.close();
      tracker.detach();
      tunnels[Symbol.dispose]();
      server.close();
      server.closeAllConnections();
      if (server.listening) await once(server, "close");
    },
  };
}
