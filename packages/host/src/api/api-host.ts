/** The parts of the daemon that the API uses; tests replace them by parts without VMs. */
import type { JsonObject, Logger } from "@torpor/std";
import type { TemplateStore } from "@torpor/storage";
import type { ApiKeys } from "../api-keys.ts";
import type { GuestLogs } from "../guest-logs.ts";
import type { GuestMetrics } from "../guest-metrics.ts";
import type { Idempotency } from "../idempotency.ts";
import type { RequestsUnderWay } from "../requests-under-way.ts";
import type { Sandbox } from "../sandbox/sandbox.ts";
import type { Created, Forked, Sandboxes } from "../sandboxes.ts";
import type { Snapshots } from "../snapshots.ts";
import type { TemplateTags } from "../template-tags.ts";

/** The members of a sandbox that the API uses. */
export type ApiSandbox = Pick<
  Sandbox,
  | "record"
  | "run"
  | "folder"
  | "pause"
  | "resume"
  | "setTimeoutMs"
  | "extendTimeoutMs"
  | "setNetwork"
>;

/** The result of a create, with the sandbox as the API sees it. */
export type ApiCreated = Omit<Created, "sandbox"> & { readonly sandbox: ApiSandbox };
/** The result of a fork; each child was created or failed on its own. */
export type ApiForked = Omit<Forked, "children"> & {
  readonly children: readonly PromiseSettledResult<ApiCreated>[];
};

/** All sandboxes, as the API sees them. */
export interface ApiSandboxes {
  readonly store: Sandboxes["store"];
  readonly snapshots: Pick<Snapshots, "all" | "get" | "find">;
  all(): readonly ApiSandbox[];
  get(id: string): ApiSandbox;
  create(...request: Parameters<Sandboxes["create"]>): Promise<ApiCreated>;
  fork(...request: Parameters<Sandboxes["fork"]>): Promise<ApiForked>;
  remove: Sandboxes["remove"];
  takeSnapshot: Sandboxes["takeSnapshot"];
  removeSnapshot: Sandboxes["removeSnapshot"];
  removeTemplate: Sandboxes["removeTemplate"];
  setPool: Sandboxes["setPool"];
  missedDeadline(sandbox: ApiSandbox): ReturnType<Sandboxes["missedDeadline"]>;
}

/** The daemon, as the API sees it. */
export interface ApiHost {
  readonly sandboxes: ApiSandboxes;
  readonly templates: Pick<TemplateStore, "open" | "ids" | "names" | "namesOf" | "assignName">;
  readonly tags: Pick<TemplateTags, "resolve" | "of" | "named" | "assign" | "remove">;
  readonly idempotency: Pick<Idempotency, "once">;
  readonly apiKeys: ApiKeys;
  readonly accessTokens: ApiKeys;
  readonly metrics: Pick<GuestMetrics, "of">;
  readonly logs: Pick<GuestLogs, "of">;
  /** Facts about this daemon for `GET /torpor/daemon`. */
  readonly describe: () => Promise<JsonObject>;
  readonly requests: RequestsUnderWay;
  /** The domain in a sandbox's address, behind `<port>-<id>.`; known once the daemon listens. */
  readonly servedDomain: () => string;
  /** Whether the daemon has been asked to end. */
  readonly isEnding: () => boolean;
  readonly log: Logger;
  readonly policy: ApiPolicy;
}

/** Limits that the owner of the machine sets. */
export interface ApiPolicy {
  /** LIMIT: the longest timeout, counted from the start of a run. */
  readonly timeoutMsMax: number;
  /** LIMIT: how many requests one key may send at once, and in each window; 0: any number. */
  readonly requestsMax: number;
  /** LIMIT: how long a client waits for a sandbox. */
  readonly answerMsMax: number;
}
