/** The one team, its API keys, and the access tokens by which keys are managed. */
import { type JsonObject, parseString } from "@torpor/std";
import type { ApiKeyInfo } from "../api-keys.ts";
import { teamId, teamName } from "../team.ts";
import type { ApiHost } from "./api-host.ts";
import { bodyOf, nameCharsMax } from "./fields.ts";
import { type ApiRequest, type Route, noContent } from "./route.ts";
import { toDate } from "./sandbox-shape.ts";

const shared = { access: "token", tag: "keys" } as const;
/** Digits after the prefix of a key or a token. */
const valueLength = 40;

/** The routes of the E2B wire for the team, API keys and access tokens. */
export function keyRoutes(host: ApiHost): readonly Route[] {
  const { apiKeys, accessTokens } = host;
  return [
    {
      ...shared,
      method: "GET",
      path: "/teams",
      summary: "The one team, with a new API key for whoever asks",
      answers: { 200: { listOf: "Team" } },
      handle: async () => {
        const { key } = await apiKeys.create("made for a login");
        return {
          status: 200,
          body: [{ teamID: teamId, name: teamName, apiKey: key, isDefault: true }],
        };
      },
    },
    {
      ...shared,
      method: "GET",
      path: "/api-keys",
      summary: "All API keys, without the keys themselves",
      answers: { 200: { listOf: "ApiKey" } },
      handle: () => ({ status: 200, body: apiKeys.list().map((one) => toKey(one, "e2b_")) }),
    },
    {
      ...shared,
      method: "POST",
      path: "/api-keys",
      summary: "A new API key, shown this once",
      onRepeat: "again",
      body: { schema: "NewKey", required: true },
      answers: { 201: "CreatedApiKey" },
      handle: async (request) => {
        const { key, ...info } = await apiKeys.create(nameOf(request));
        return { status: 201, body: { ...toKey(info, "e2b_"), key } };
      },
    },
    {
      ...shared,
      method: "PATCH",
      path: "/api-keys/{apiKeyID}",
      summary: "Give an API key another name",
      body: { schema: "NewKey", required: true },
      answers: { 200: null },
      handle: async (request) => {
        await apiKeys.rename(idOf(request, "apiKeyID"), nameOf(request));
        return { status: 200 };
      },
    },
    {
      ...shared,
      method: "DELETE",
      path: "/api-keys/{apiKeyID}",
      summary: "Take an API key back; it lets nobody in from then on",
      answers: { 204: null },
      handle: async (request) => {
        await apiKeys.remove(idOf(request, "apiKeyID"));
        return noContent;
      },
    },
    {
      ...shared,
      method: "POST",
      path: "/access-tokens",
      summary: "A new access token, shown this once",
      onRepeat: "again",
      body: { schema: "NewKey", required: true },
      answers: { 201: "CreatedAccessToken" },
      handle: async (request) => {
        const { key: token, ...info } = await accessTokens.create(nameOf(request));
        return { status: 201, body: { ...toKey(info, "sk_e2b_"), token } };
      },
    },
    {
      ...shared,
      method: "DELETE",
      path: "/access-tokens/{accessTokenID}",
      summary: "Take an access token back",
      answers: { 204: null },
      handle: async (request) => {
        await accessTokens.remove(idOf(request, "accessTokenID"));
        return noContent;
      },
    },
  ];
}

/** Torpor's own routes for API keys, which the CLI uses. */
export function ownKeyRoutes({ apiKeys }: ApiHost): readonly Route[] {
  return [
    {
      ...shared,
      method: "GET",
      path: "/torpor/api-keys",
      summary: "All API keys, without the keys themselves",
      answers: { 200: { listOf: "Own" } },
      handle: () => ({ status: 200, body: apiKeys.list() }),
    },
    {
      ...shared,
      method: "POST",
      path: "/torpor/api-keys",
      summary: "A new API key, shown this once",
      onRepeat: "again",
      body: { schema: "NewKey", required: true },
      answers: { 201: "Own" },
      handle: async (request) => ({ status: 201, body: await apiKeys.create(nameOf(request)) }),
    },
  ];
}

function toKey(info: ApiKeyInfo, prefix: string): JsonObject {
  return {
    id: info.id,
    name: info.name,
    mask: {
      prefix,
      valueLength,
      maskedValuePrefix: info.prefix.slice(prefix.length),
      maskedValueSuffix: info.suffix,
    },
    createdAt: toDate(info.createdAtMs),
    createdBy: null,
    lastUsed: null,
  };
}

function nameOf(request: ApiRequest): string {
  return parseString(bodyOf(request)["name"], "name", nameCharsMax);
}

function idOf({ params }: ApiRequest, name: string): string {
  return parseString(params[name], name, nameCharsMax);
}
