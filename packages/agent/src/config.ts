/**
 * The agent's configuration. All of it comes from the environment; the guest's init sets none of
 * it.
 */
import { agentPort } from "@torpor/protocol";
import { parseInteger } from "@torpor/std";

/** Folder of the guest's hooks: one folder for each moment, named `<moment>.d`. */
export const hooksFolder = "/etc/torpor/hooks";
/** The moments at which the agent runs hooks. */
export const hookMoments = ["pre-snapshot", "post-restore"] as const;

/** Where the agent listens, and which files and limits it uses. */
export interface AgentConfig {
  readonly address: string;
  /** TCP port; 0 lets the kernel choose a free one. */
  readonly port: number;
  /**
   * Folder of the cgroup v2 that user processes run in; null: there is none, and nothing is frozen.
   */
  readonly userCgroup: string | null;
  /** Folder of the marker files by which programs recognise an E2B sandbox. */
  readonly markerFolder: string;
  /**
   * File in memory, readable by root only, from which a restarted agent restores its identity;
   * null: none is kept.
   */
  readonly identityPath: string | null;
  /** File in memory that changes with every restore, for programs to watch. */
  readonly generationPath: string;
  readonly hooksFolder: string;
  /** PATH of user processes, unless `environmentFile` or a request names another. */
  readonly path: string;
  /** File with the environment variables of all logins, as /etc/environment. */
  readonly environmentFile: string;
  /** File with the locale of all logins, as /etc/default/locale. */
  readonly localeFile: string;
  readonly limits: AgentLimits;
}

/** Times and sizes by which the agent bounds processes, their clients and hooks. */
export interface AgentLimits {
  /** How long the exit status of a process is kept for a late Connect. */
  readonly exitKeptMs: number;
  /**
   * How long the agent waits for output after the leader's exit while a descendant holds the pipe
   * open.
   */
  readonly outputGraceMs: number;
  /** How much output of one process is kept for clients that reconnect. */
  readonly outputKeptBytes: number;
  /** How much output of all processes together is kept for clients that reconnect. */
  readonly allOutputKeptBytes: number;
  /** Unread output of one subscriber above which it counts as full. */
  readonly subscriberFullBytes: number;
  /**
   * Unread output of one subscriber above which the agent disconnects it, if others read faster.
   */
  readonly subscriberCutBytes: number;
  /** How long a process waits for its subscribers when none of them reads. */
  readonly subscriberPatienceMs: number;
  /** How long one hook may run. */
  readonly hookBudgetMs: number;
  /** How long all hooks of one moment may run. */
  readonly hooksBudgetMs: number;
}

/** The limits of every agent; only tests use others. */
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

/**
 * Reads the configuration; what the environment does not set has its default.
 * @throws argument.invalid
 */
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
