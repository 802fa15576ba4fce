/**
 * QEMU's own save of a guest: vCPUs stopped, all memory and devices written to a file by `migrate`,
 * vCPUs released. QEMU limits the bandwidth of it unless told otherwise.
 */
import { once } from "node:events";
import { connect } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { runFiles } from "@torpor/vmm";

const pollMs = 2;
/** QEMU's default, from its documentation of `migrate-set-parameters`. */
export const defaultBytesPerSecond = 128 * 2 ** 20;
export const unlimitedBytesPerSecond = 2 ** 40;

export async function saveWholeMemory(
  runFolder: string,
  path: string,
  bytesPerSecond: number,
): Promise<void> {
  const socket = connect(join(runFolder, runFiles.control));
  await once(socket, "connect");
  const lines = createInterface(socket)[Symbol.asyncIterator]();
  const execute = async (command: string, args: object = {}): Promise<Record<string, unknown>> => {
    socket.write(`${JSON.stringify({ execute: command, arguments: args })}\n`);
    for (;;) {
      const { value, done } = await lines.next();
      if (done === true) throw new Error("QEMU ended");
      const message = JSON.parse(value) as Record<string, unknown>;
      if ("error" in message) throw new Error(`${command}: ${JSON.stringify(message["error"])}`);
      if ("return" in message) return message["return"] as Record<string, unknown>;
    }
  };
  await execute("qmp_capabilities");
  await execute("migrate-set-parameters", { "max-bandwidth": bytesPerSecond });
  await execute("stop");
  await execute("migrate", { uri: `file:${path}` });
  while ((await execute("query-migrate"))["status"] !== "completed") await sleep(pollMs);
  await execute("cont");
  socket.destroy();
  await once(socket, "close");
}
