/**
 * The daemon's listener over TLS, with the user's certificate: HTTP/2 for clients that speak it,
 * HTTP/1.1 with WebSockets for the others.
 *
 * It passes connections to the plain server, which tells the protocols apart by the first bytes.
 * When the certificate is renewed on disk, new connections use it without a restart.
 */
import { once } from "node:events";
import { unwatchFile, watchFile } from "node:fs";
import { readFile } from "node:fs/promises";
import type { Server } from "node:http";
import type { Socket } from "node:net";
import { type TlsOptions, createServer as createTlsServer } from "node:tls";
import { type Logger, TorporError } from "@torpor/std";
import { listenTcp } from "../listen.ts";
import type { ClientConnections } from "./client-connections.ts";
import { deadPeerMs } from "./limits.ts";

const renewalPollMs = 60_000;
/** LIMIT: how long a handshake of TLS may take. */
const handshakeMs = 10_000;

/** Where to listen, and with which certificate. */
export interface TlsSettings {
  /** PEM file: the certificate for the domain and all names below it, with its chain. */
  readonly certPath: string;
  readonly keyPath: string;
  readonly address: string;
  /** 0 lets the kernel choose. */
  readonly port: number;
}

/** A listener in use. Disposing closes it with its connections. */
export interface TlsListener extends AsyncDisposable {
  readonly port: number;
}

/**
 * Starts the listener.
 * @throws argument.invalid when certificate or key cannot be used; port.inUse
 */
export async function listenTls(
  plain: Server,
  connections: ClientConnections,
  settings: TlsSettings,
  log: Logger,
): Promise<TlsListener> {
  const secure = await createSecure(settings);
  const sockets = new Set<Socket>();
  secure.on("connection", (socket: Socket) => {
    connections.admit(socket);
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
  });
  secure.on("secureConnection", (socket) => {
    socket.on("error", () => socket.destroy());
    plain.emit("connection", socket);
  });
  const port = await listenTcp(secure, settings.address, settings.port);
  const renew = (): void => {
    readPair(settings)
      .then((pair) => secure.setSecureContext(pair))
      .catch((cause: unknown) => log.error("the renewed certificate cannot be used", { cause }));
  };
  for (const path of [settings.certPath, settings.keyPath]) {
    watchFile(path, { interval: renewalPollMs, persistent: false }, renew);
  }
  return {
    port,
    [Symbol.asyncDispose]: async () => {
      for (const path of [settings.certPath, settings.keyPath]) unwatchFile(path, renew);
      secure.close();
      for (const socket of sockets) socket.destroy();
      if (secure.listening) await once(secure, "close");
    },
  };
}

async function createSecure(settings: TlsSettings): Promise<ReturnType<typeof createTlsServer>> {
  const pair = await readPair(settings);
  try {
    return createTlsServer({
      ...pair,
      ALPNProtocols: ["h2", "http/1.1"],
      handshakeTimeout: handshakeMs,
      keepAlive: true,
      keepAliveInitialDelay: deadPeerMs,
    });
  } catch (cause) {
    throw TorporError.from(cause, "argument.invalid", "the certificate or its key cannot be used");
  }
}

async function readPair({ certPath, keyPath }: TlsSettings): Promise<TlsOptions> {
  try {
    const [cert, key] = await Promise.all([readFile(certPath), readFile(keyPath)]);
    return { cert, key };
  } catch (cause) {
    throw new TorporError("argument.invalid", `no certificate: ${String(cause)}`, { cause });
  }
}
