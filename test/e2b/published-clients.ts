/**
 * The E2B clients as they are published, and a daemon for them to talk to. The clients are told where
 * it is as a user would tell them: by the variables `E2B_API_URL`, `E2B_SANDBOX_URL` and `E2B_API_KEY`.
 */
import type { TestContext } from "node:test";
import { type DaemonApi, startTestDaemon } from "@torpor/testing";
import { parseJson, parseObject, parseString } from "@torpor/std";
import * as newest from "e2b";
import * as older from "e2b-2-45";

export type Sdk = typeof newest;

interface PublishedSdk {
  readonly name: string;
  readonly sdk: Sdk;
}

/** Two generations: from 2.51 on the SDK creates and connects by other routes than before. */
export const sdks: readonly PublishedSdk[] = [
  { name: "e2b 2.51.0", sdk: newest },
  {
    name: "e2b 2.45.0",
    // The classes differ in private members only.
    sdk: older as unknown as Sdk,
  },
];

/** Tells a story once with each SDK, all with one daemon. */
export async function withEachSdk(
  t: TestContext,
  story: (t: TestContext, sdk: Sdk) => Promise<void>,
): Promise<void> {
  await using daemon = await startTestDaemon();
  using _ = setEnvironment(await clientEnvironment(daemon.api));
  for (const { name, sdk } of sdks) {
    await t.test(name, async (inner) => await story(inner, sdk));
  }
}

/** The variables that lead every published client to a daemon. */
export type ClientEnvironment = Readonly<
  Record<"E2B_API_URL" | "E2B_SANDBOX_URL" | "E2B_API_KEY", string>
>;

/** Makes a key, as `torpor keys create` does. */
export async function clientEnvironment(api: DaemonApi): Promise<ClientEnvironment> {
  const url = await ask(api, "GET", "/torpor/daemon", "url");
  const key = await ask(api, "POST", "/torpor/api-keys", "key", { name: "test" });
  return { E2B_API_URL: url, E2B_SANDBOX_URL: url, E2B_API_KEY: key };
}

async function ask(
  api: DaemonApi,
  method: string,
  path: string,
  field: string,
  body?: object,
): Promise<string> {
  const { text } = await api.call(method, path, body);
  return parseString(parseObject(parseJson(text, "answer"), "answer")[field], field);
}

/** Sets the variables for SDKs of this process until disposed. */
export function setEnvironment(environment: ClientEnvironment): Disposable {
  Object.assign(process.env, environment);
  return {
    [Symbol.dispose]: () => {
      for (const name of Object.keys(environment)) Reflect.deleteProperty(process.env, name);
    },
  };
}
