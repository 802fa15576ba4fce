/**
 * A large file into a guest and out of it, through the published SDK, the edge and the agent,
 * against `nc` on both sides of the same VM: Debian's on the host, which enters the network of the
 * guest for it, and busybox's inside. Both read the same file of the host, write it to the same
 * folder of the guest, and write it to a file of the host again. In turns.
 *
 * It needs root, to enter that network, and installs Debian's `netcat-openbsd`.
 */
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { createWriteStream, openAsBlob } from "node:fs";
import { open, stat } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { guestAddress } from "@torpor/protocol";
import { type HostPackage, ensureDebianPackages } from "@torpor/setup";
import { type CommandHandle, Sandbox } from "e2b";
import { canDial, vmPid } from "./guest-dialling.ts";
import { type Row, atLeast, median } from "./row.ts";
import { openSdkDaemon, parseSandbox, requestSandbox } from "./sdk-daemon.ts";
import { temporaryFolder } from "./temporary-folder.ts";
import { timed } from "./timing.ts";

const rounds = 5;
const mebibyte = 1 << 20;
const fileMiB = 64;
const createBudgetMs = 60_000;
const netcat: HostPackage = { name: "netcat-openbsd", why: "is measured against", newest: false };
const port = 7_000;
/** The kernel's text for a socket that listens on the port. */
const listening = `:${port.toString(16).toUpperCase()} .* 0A `;
const guestPath = "/home/user/large";
const commandOptions = { timeoutMs: 0 };

interface Ends {
  readonly sandbox: Sandbox;
  /** The process whose network leads to the guest. */
  readonly pid: number;
  /** The file that goes in, and where it comes out. */
  readonly sourcePath: string;
  readonly copyPath: string;
}

/** Measures both ways in both directions; no rows without root. */
export async function measureTransfers(): Promise<readonly Row[]> {
  if (!canDial) {
    process.stderr.write("transfers: no rows without root, who alone can dial a guest directly\n");
    return [];
  }
  await ensureDebianPackages({}, [netcat]);
  await using undo = new AsyncDisposableStack();
  const folder = await temporaryFolder(undo);
  const daemon = await openSdkDaemon(undo);
  const answer = await requestSandbox(daemon, createBudgetMs);
  const { id } = parseSandbox(await answer.text());
  const ends: Ends = {
    sandbox: await Sandbox.connect(id),
    pid: await vmPid(daemon, id),
    sourcePath: join(folder, "source"),
    copyPath: join(folder, "copy"),
  };
  await writeSource(ends.sourcePath);
  const ways = { sdkIn, ncIn, sdkOut, ncOut };
  const speeds: Record<keyof typeof ways, number[]> = {
    sdkIn: [],
    ncIn: [],
    sdkOut: [],
    ncOut: [],
  };
  // One more than is counted: the first pays for what is done once.
  for (let round = 0; round <= rounds; round += 1) {
    for (const [name, way] of Object.entries(ways) as [keyof typeof ways, typeof sdkIn][]) {
      const speed = await mibPerSecond(ends, way);
      if (round > 0) speeds[name].push(speed);
    }
  }
  const [sdkInto, ncInto] = [median(speeds.sdkIn), median(speeds.ncIn)];
  const [sdkFrom, ncFrom] = [median(speeds.sdkOut), median(speeds.ncOut)];
  return [
    { row: "upload by the SDK", value: sdkInto, unit: "MiB/s" },
    { row: "upload by nc", value: ncInto, unit: "MiB/s" },
    atLeast("upload against nc", sdkInto / ncInto, "of its speed", 0.5),
    { row: "download by the SDK", value: sdkFrom, unit: "MiB/s" },
    { row: "download by nc", value: ncFrom, unit: "MiB/s" },
    atLeast("download against nc", sdkFrom / ncFrom, "of its speed", 0.75),
  ];
}

/** The rate of one transfer to a place without a file. A way returns how long it took. */
async function mibPerSecond(ends: Ends, way: (ends: Ends) => Promise<number>): Promise<number> {
  const isUpload = way === sdkIn || way === ncIn;
  // Earlier writes must not reach the disk during the measurement.
  await ends.sandbox.commands.run(isUpload ? `rm -f ${guestPath}; sync` : "sync");
  const ms = await way(ends);
  const { size } = isUpload
    ? await ends.sandbox.files.getInfo(guestPath)
    : await stat(ends.copyPath);
  if (size !== fileMiB * mebibyte) throw new Error(`${size} bytes came through`);
  return fileMiB / (ms / 1000);
}

async function sdkIn({ sandbox, sourcePath }: Ends): Promise<number> {
  const source = await openAsBlob(sourcePath);
  return await timed(() => sandbox.files.write(guestPath, source.stream()));
}

async function sdkOut({ sandbox, copyPath }: Ends): Promise<number> {
  return await timed(async () => {
    const stream = await sandbox.files.read(guestPath, { format: "stream" });
    await pipeline(stream, createWriteStream(copyPath));
  });
}

/** Ends when the guest has the whole file. */
async function ncIn({ sandbox, pid, sourcePath }: Ends): Promise<number> {
  const receiver = await listen(sandbox, `>${guestPath}`);
  return await timed(async () => {
    await runNetcat(pid, ["-N"], sourcePath, "/dev/null");
    await receiver.wait();
  });
}

async function ncOut({ sandbox, pid, copyPath }: Ends): Promise<number> {
  const sender = await listen(sandbox, `<${guestPath}`);
  const ms = await timed(() => runNetcat(pid, ["-d"], "/dev/null", copyPath));
  await sender.wait();
  return ms;
}

/** Starts a netcat inside, for one connection. */
async function listen(sandbox: Sandbox, redirection: string): Promise<CommandHandle> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const command = await sandbox.commands.run(
    `busybox nc -l -p ${port} ${redirection} &
    until cat /proc/net/tcp /proc/net/tcp6 | grep -q '${listening}'; do sleep 0.1; done
    echo ready; wait $!`,
    { ...commandOptions, background: true, onStdout: () => resolve() },
  );
  await promise;
  return command;
}

async function runNetcat(
  pid: number,
  options: readonly string[],
  inputPath: string,
  outputPath: string,
): Promise<void> {
  await using input = await open(inputPath, "r");
  await using output = await open(outputPath, "w");
  const inNetwork = [`--net=/proc/${pid}/ns/net`, "nc", ...options, guestAddress, String(port)];
  const child = spawn("nsenter", inNetwork, { stdio: [input.fd, output.fd, "inherit"] });
  await once(child, "exit");
  const { exitCode } = child;
  if (exitCode !== 0) throw new Error(`nc ended with ${exitCode}`);
}

async function writeSource(path: string): Promise<void> {
  await using file = await open(path, "w");
  for (let block = 0; block < fileMiB; block += 1) await file.write(randomBytes(mebibyte));
}
