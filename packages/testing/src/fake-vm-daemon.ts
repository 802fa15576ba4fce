/**
 * The daemon as a program of its own, real except for its VMs: for tests that attack it from
 * outside.
 */
import { once } from "node:events";
import { startDaemon } from "@torpor/host";
import { jsonLogger } from "@torpor/std";
import { defaultCacheFolder, defaultKeyFile, defaultStateFolder } from "@torpor/storage";
import { FakeDriver } from "./fake-vmm/fake-driver.ts";
import { FakeMachine } from "./fake-vmm/fake-machine.ts";

const log = jsonLogger((line) => process.stderr.write(line));
const { TORPOR_DOMAIN: domain, TORPOR_TLS_CERT: certPath, TORPOR_TLS_KEY: keyPath } = process.env;
const machine = new FakeMachine();
const daemon = await startDaemon({
  stateFolder: defaultStateFolder(),
  cacheFolder: defaultCacheFolder(),
  keyFile: defaultKeyFile(),
  port: 0,
  domain,
  tls:
    certPath === undefined || keyPath === undefined
      ? undefined
      : { certPath, keyPath, address: "127.0.0.1", port: 0 },
  networkKind: "user",
  drainMs: 0,
  driver: () => new FakeDriver(machine, async (_name, call) => await call()),
  log,
});
log.info("serving", { url: daemon.url, tlsUrl: daemon.tlsUrl, socket: daemon.socketPath });
await once(process, "SIGTERM");
await daemon[Symbol.asyncDispose]();
process.exit();
