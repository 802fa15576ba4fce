/** Connect RPC clients of the agent's public services, over a link's own pool. */
import { type Client, type Transport, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { Process, accessTokenHeader, agentPort } from "@torpor/protocol";
import type { GuestLink } from "./guest-link.ts";

/** @param accessToken Sent as the sandbox's token; null when the guest demands none. */
function guestTransport(link: GuestLink, accessToken: string | null): Transport {
  return createConnectTransport({
    baseUrl: `http://guest:${agentPort}`,
    httpVersion: "1.1",
    useBinaryFormat: false,
    nodeOptions: { agent: link.agent },
    interceptors: [
      (next) => (call) => {
        if (accessToken !== null) call.header.set(accessTokenHeader, accessToken);
        return next(call);
      },
    ],
  });
}

/**
 * Makes a client of the agent's process RPCs.
 * @param accessToken Null when the guest demands none.
 */
export function processClient(link: GuestLink, accessToken: string | null): Client<typeof Process> {
  return createClient(Process, guestTransport(link, accessToken));
}
