/**
 * A daemon like a user's, in a process and over a folder of its own, and the environment with which
 * the published SDK in this process finds it.
 */
import { DaemonApi, StateFolder, spawnTestDaemon } from "@torpor/testing";
import { parseJson, parseObject, parseString } from "@torpor/std";
import {
  type ClientEnvironment,
  clientEnvironment,
  setEnvironment,
} from "../test/e2b/published-clients.ts";

/** Long enough that no sandbox ends during a measurement. */
const sandboxTimeoutSeconds = 3_600;

/** A daemon, and how clients reach it. */
export interface SdkDaemon {
  readonly api: DaemonApi;
  readonly environment: ClientEnvironment;
}

/** The SDK's knowledge of a sandbox. */
export interface SdkSandbox {
  readonly id: string;
  readonly accessToken: string;
}

/** Starts a daemon; `undo` ends it and its sandboxes. */
export async function openSdkDaemon(undo: AsyncDisposableStack): Promise<SdkDaemon> {
  const state = undo.use(await StateFolder.make());
  const daemon = undo.use(await spawnTestDaemon(state));
  undo.defer(() => daemon.stop());
  const { api } = daemon;
  const environment = await clientEnvironment(api);
  undo.use(setEnvironment(environment));
  // Sandboxes that are left by then are removed here, and do not count as leftovers.
  undo.defer(async () => {
    for (const { id } of await api.list()) await api.call("DELETE", `/sandboxes/${id}`);
  });
  return { api, environment };
}

/** Requests a sandbox as the SDK does. */
export async function requestSandbox(
  { environment }: SdkDaemon,
  patienceMs: number,
): Promise<Response> {
  return await fetch(`${environment.E2B_API_URL}/v2/sandboxes`, {
    method: "POST",
    headers: { "X-API-KEY": environment.E2B_API_KEY, "Content-Type": "application/json" },
    body: JSON.stringify({ templateID: "base", timeout: sandboxTimeoutSeconds }),
    signal: AbortSignal.timeout(patienceMs),
  });
}

/** Parses the answer to that request. @throws argument.invalid */
export function parseSandbox(text: string): SdkSandbox {
  const answer = parseObject(parseJson(text, "answer"), "answer");
  return {
    id: parseString(answer["sandboxID"], "sandboxID"),
    accessToken: parseString(answer["envdAccessToken"], "envdAccessToken"),
  };
}
