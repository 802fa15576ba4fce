/**
 * A daemon as its users have one, in a process of its own and over a folder that goes away with it, and
 * the published SDK of this process told where it is.
 */
import { DaemonApi, StateFolder, spawnTestDaemon } from "@torpor/testing";
import { parseJson, parseObject, parseString } from "@torpor/std";
import {
  type ClientEnvironment,
  clientEnvironment,
  setEnvironment,
} from "../test/e2b/published-clients.ts";

/** Nobody's time is over while it is measured. */
const sandboxTimeoutSeconds = 3_600;

export interface SdkDaemon {
  readonly api: DaemonApi;
  readonly environment: ClientEnvironment;
}

/** What the SDK knows of a sandbox. */
export interface SdkSandbox {
  readonly id: string;
  readonly accessToken: string;
}

export async function openSdkDaemon(undo: AsyncDisposableStack): Promise<SdkDaemon> {
  const state = undo.use(await StateFolder.make());
  const daemon = undo.use(await spawnTestDaemon(state));
  undo.defer(() => daemon.stop());
  const { api } = daemon;
  const environment = await clientEnvironment(api);
  undo.use(setEnvironment(environment));
  // What is left by then is ended here, and not taken for something forgotten.
  undo.defer(async () => {
    for (const { id } of await api.list()) await api.call("DELETE", `/sandboxes/${id}`);
  });
  return { api, environment };
}

/** Asks for a sandbox as the SDK does. */
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

export function parseSandbox(text: string): SdkSandbox {
  const answer = parseObject(parseJson(text, "answer"), "answer");
  return {
    id: parseString(answer["sandboxID"], "sandboxID"),
    accessToken: parseString(answer["envdAccessToken"], "envdAccessToken"),
  };
}
