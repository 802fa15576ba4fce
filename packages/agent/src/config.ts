/** What the agent is told at start, all of it by the environment; the guest's init sets none of it. */
import { agentPort } from "@torpor/protocol";
import { parseInteger } from "@torpor/std";

/** Holds a folder for each moment, named for it with `.d`. */
export const hooksFolder = "/etc/torpor/hooks";
export const hookMoments = ["pre-snapshot", "post-restore"] as const;

export interface AgentConfig {
  readonly address: string;
  /** 0 takes a free one. */
  readonly port: number;
  /** Folder of the cgroup v2 that user processes run in; null where there is none: nothing freezes. */
  readonly userCgroup: string | null;
  /** Where programs inside look for the marks of a sandbox. */
  readonly markerFolder: string;
  /** Where a restarted agent finds who it is; null keeps nothing. In memory and closed to users. */
  readonly identityPath: string | null;
  /** The file that changes with every restore, for programs to watch. In memory. */
  readonly generationPath: string;
  readonly hooksFolder: string;
  /** PATH of user processes, unless `environmentFile` or a request names another. */
  readonly path: string;
  /** Variables of all logins. */
  readonly environmentFile: string;
  /** Language of all logins. */
  readonly localeFile: string;
  readonly limits: AgentLimits;
}

export interface AgentLimits {
  /** How long the exit status of a process is kept for a late Connect. */
  readonly exitKeptMs: number;
  /** How long output is awaited after the leader's exit while a descendant holds the pipe open. */
  readonly outputGraceMs: number;
  /** Output of one process that is kept for clients which come back for what they missed. */
  readonly outputKeptBytes: number;
  /** The same of all processes together. */
  readonly allOutputKeptBytes: number;
  /** Unread output of one subscriber above which it counts as full. */
  readonly subscriberFullBytes: number;
  /** Unread output of one subscriber above which it is cut, because others are faster. */
  readonly subscriberCutBytes: number;
  /** How long a process waits for the only subscribers it has, when none reads anything. */
  readonly subscriberPatienceMs: number;
  /** How long one hook may run. */
  readonly hookBudgetMs: number;
  /** How long all hooks of one moment may run. */
  readonly hooksBudgetMs: number;
}

export const defaultLimits: AgentLimits = {
  exitKeptMs: 30_000,
  outputGraceMs: 1_000,
  outputKeptBytes: 1 << 20,
  allOutputKeptBytes: 16 << 20,
  subscriberFullBytes: 1 << 20,
  subscriberCutBytes: 4 << 20,
  subscriberPatienceMs: 10_000,
  hookBudgetMs: 5_000,
  hooksBudgetMs: 10_000,
};

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** @throws argument.invalid */
export function configFromEnvironment(env: NodeJS.ProcessEnv): AgentConfig {
  const port = env["TORPOR_AGENT_PORT"];
  return {
    address: env["TORPOR_AGENT_ADDRESS"] ?? "0.0.0.0",
    port:
      port === undefined ? agentPort : parseInteger(Number(port), "TORPOR_AGENT_PORT", 0, 65_535),
    userCgroup: env["TORPOR_AGENT_USER_CGROUP"] ?? "/sys/fs/cgroup/user",
    markerFolder: "/run/e2b",
    identityPath: "/run/torpor/identity.json",
    generationPath: "/run/torpor/generation",
    hooksFolder,
    path: env["PATH"] ?? defaultPath,
    environmentFile: "/etc/environment",
    localeFile: "/etc/default/locale",
    limits: defaultLimits,
  };
}
