/**
 * A daemon in a process of its own, two sandboxes on it, and clients that send whatever bytes they like: a
 * hostile sandbox, and one beside it whose answers must stay its own.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { type IncomingMessage, request as httpRequest } from "node:http";
import { type ClientHttp2Session, connect as connectHttp2 } from "node:http2";
import { type Socket, connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect as connectTls } from "node:tls";
import { TemplateStore, templatesFolder } from "@torpor/storage";
import {
  type DaemonProcess,
  StateFolder,
  TestSandbox,
  makeFakeTemplate,
  spawnFakeVmDaemon,
} from "@torpor/testing";
import { makeCertificate } from "../../packages/host/src/edge/certificate-fixture.ts";
import { type RawGuest, sayHi, startRawGuest } from "./raw-guest.ts";

const domain = "box.localhost";
const templateName = "fake";

export type Transport = "plain" | "tls";

export interface Rig extends AsyncDisposable {
  readonly daemon: DaemonProcess;
  /** In the hostile sandbox. */
  readonly guest: RawGuest;
  /** What names that guest's port: `3000-id.domain`. */
  readonly host: string;
  readonly hostileId: string;
  readonly ports: Readonly<Record<Transport, number>>;
  /** A connection to the daemon. */
  open(transport: Transport, protocols?: readonly string[]): Promise<Socket>;
  /** @param port Of the hostile sandbox; that of its guest unless told otherwise. */
  openHttp2(port?: number): ClientHttp2Session;
  /** Fails unless the daemon is the same process, and the sandbox beside is served as ever. */
  checkAlive(): Promise<void>;
}

export async function startRig(): Promise<Rig> {
  await using undo = new AsyncDisposableStack();
  const folder = undo.adopt(await mkdtemp(join(tmpdir(), "torpor-hostile-")), (path) =>
    rm(path, { recursive: true, force: true }),
  );
  const cacheFolder = join(folder, "cache");
  await makeFakeTemplate(new TemplateStore(templatesFolder(cacheFolder)), templateName);
  const { certPath, keyPath, ca } = await makeCertificate(folder, domain);
  const state = await StateFolder.make(folder, cacheFolder);
  const daemon = undo.use(
    await spawnFakeVmDaemon(state, {
      TORPOR_CACHE: cacheFolder,
      TORPOR_DOMAIN: domain,
      TORPOR_TLS_CERT: certPath,
      TORPOR_TLS_KEY: keyPath,
    }),
  );
  const about = JSON.parse((await daemon.api.call("GET", "/torpor/daemon")).text) as {
    readonly pid: number;
    readonly url: string;
    readonly tlsUrl: string;
  };
  const hostile = await TestSandbox.create(daemon.api, templateName);
  const innocent = await TestSandbox.create(daemon.api, templateName);
  const guest = undo.use(await startRawGuest(sayHi));
  const beside = undo.use(await startRawGuest(sayHi));
  const ports = { plain: Number(new URL(about.url).port), tls: Number(new URL(about.tlsUrl).port) };
  const host = `${guest.port}-${hostile.id}.${domain}`;
  const besideHost = `${beside.port}-${innocent.id}.${domain}`;
  let checks = 0;
  const owned = undo.move();
  return {
    daemon,
    guest,
    host,
    hostileId: hostile.id,
    ports,
    open: async (transport, protocols = ["http/1.1"]) => {
      const at = { port: ports[transport], host: "127.0.0.1" };
      const isPlain = transport === "plain";
      const socket = isPlain
        ? connect(at)
        : connectTls({ ...at, ca, servername: host, ALPNProtocols: [...protocols] });
      socket.on("error", () => socket.destroy());
      await once(socket, isPlain ? "connect" : "secureConnect");
      return socket;
    },
    openHttp2: (port = guest.port) => {
      const name = `${port}-${hostile.id}.${domain}`;
      const session = connectHttp2(`https://${name}:${ports.tls}`, {
        ca,
        host: "127.0.0.1",
        servername: name,
      });
      session.on("error", () => undefined);
      return session;
    },
    checkAlive: async () => {
      checks += 1;
      process.kill(about.pid, 0); // throws when there is none
      assert.equal(daemon.pid, about.pid);
      const text = await get(ports.plain, besideHost, `/check/${checks}`);
      assert.equal(text, `hi /check/${checks}`, "the answer of the sandbox beside");
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

async function get(port: number, host: string, path: string): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
  const outgoing = httpRequest({ port, host: "127.0.0.1", path, headers: { host } });
  outgoing.on("response", resolve);
  outgoing.on("error", reject);
  outgoing.end();
  let text = "";
  for await (const chunk of await promise) text += String(chunk);
  return text;
}
