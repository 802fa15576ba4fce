/** One API on all listeners of the daemon, each with a client of its own. */
import { once } from "node:events";
import { mkdtempDisposable } from "node:fs/promises";
import { type IncomingMessage, type RequestOptions, request as httpRequest } from "node:http";
import { type ClientHttp2Session, connect as connectHttp2 } from "node:http2";
import { request as httpsRequest } from "node:https";
import { type Socket, connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TLSSocket, connect as connectTls } from "node:tls";
import { silentLogger } from "@torpor/std";
import { makeCertificate } from "../edge/certificate-fixture.ts";
import { Edge } from "../edge/edge.ts";
import { createListener } from "../edge/listener.ts";
import { listenTls } from "../edge/tls-listener.ts";
import { type FakeApi, type FakeApiOptions, startFakeApi } from "./fixtures.ts";
import { createApi } from "./server.ts";

/** The listeners, by the names that tests use. */
export const listenerNames = ["Unix socket", "TCP", "TLS", "HTTP/2"] as const;
/** The name of one listener. */
export type ListenerName = (typeof listenerNames)[number];

/** An answer, read to its end. */
export interface ShortAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, unknown>>;
  readonly text: string;
}

/** The API on all listeners. Disposing closes them. */
export interface AllListeners extends AsyncDisposable {
  readonly api: FakeApi;
  /** Calls the API on one listener. @param body Sent as it is. */
  call(on: ListenerName, method: string, path: string, body?: string): Promise<ShortAnswer>;
  /** Opens a connection for bytes of the test's own; there is none for HTTP/2. */
  dial(on: Exclude<ListenerName, "HTTP/2">): Promise<Socket | TLSSocket>;
  /** Opens a session of HTTP/2. */
  openSession(): ClientHttp2Session;
}

const domain = "box.localhost";

/** Starts one fake API on every listener. */
export async function startAllListeners(options: FakeApiOptions): Promise<AllListeners> {
  await using undo = new AsyncDisposableStack();
  const { path: folder } = undo.use(await mkdtempDisposable(join(tmpdir(), "torpor-listeners-")));
  const api = undo.use(await startFakeApi(options));
  const edge = new Edge({ domain: "localhost", find: () => undefined });
  const local = await createApi({
    host: api.host,
    requireKey: false,
    createServer: createListener.bind(undefined, edge),
    limits: options.limits,
  });
  undo.defer(() => local.server.closeAllConnections());
  undo.defer(() => void local.server.close());
  const socketPath = join(folder, "socket");
  local.server.listen(socketPath);
  await once(local.server, "listening");
  const { ca, ...files } = await makeCertificate(folder, domain);
  const settings = { ...files, address: "127.0.0.1", port: 0 };
  const { port: tlsPort } = undo.use(
    await listenTls(api.server, edge.connections, settings, silentLogger),
  );
  const host = "127.0.0.1";
  const servername = `api.${domain}`;
  const openSession = (): ClientHttp2Session =>
    connectHttp2(`https://${servername}:${tlsPort}`, { ca, host, servername });
  const owned = undo.move();
  return {
    api,
    openSession,
    dial: async (on) => {
      const socket =
        on === "TLS"
          ? connectTls({ port: tlsPort, host, servername, ca })
          : on === "TCP"
            ? connect(api.port, host)
            : connect(socketPath);
      socket.on("error", () => socket.destroy());
      await once(socket, on === "TLS" ? "secureConnect" : "connect");
      return socket;
    },
    call: async (on, method, path, body) => {
      if (on === "HTTP/2") {
        const session = openSession();
        const asked = { ":method": method, ":path": path };
        const stream = session.request(asked, { endStream: body === undefined });
        if (body !== undefined) stream.end(body);
        const [head] = (await once(stream, "response")) as [Readonly<Record<string, unknown>>];
        const text = await textOf(stream);
        session.close();
        return { status: Number(head[":status"]), headers: head, text };
      }
      const to: RequestOptions =
        on === "Unix socket" ? { socketPath } : { host, port: on === "TLS" ? tlsPort : api.port };
      const outgoing =
        on === "TLS"
          ? httpsRequest({ ...to, method, path, agent: false, ca, servername })
          : httpRequest({ ...to, method, path, agent: false });
      outgoing.end(body);
      const [answer] = (await once(outgoing, "response")) as [IncomingMessage];
      const { statusCode = 0, headers } = answer;
      return { status: statusCode, headers, text: await textOf(answer) };
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** Reads a stream to its end, as text. */
export async function textOf(stream: AsyncIterable<unknown>): Promise<string> {
  let text = "";
  for await (const chunk of stream) text += String(chunk);
  return text;
}
