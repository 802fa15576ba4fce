/**
 * Runs a host program to its end, with a deadline and bounded output.
 *
 * Used for short tools (qemu-img, mke2fs, dpkg-query). Long-lived programs are owned by the package
 * that starts them.
 */
import { spawn } from "node:child_process";
import type { Deadline } from "./deadline.ts";
import { TorporError, systemCode } from "./errors.ts";

/** LIMIT: enough for every tool called here. Output beyond this loses its front. */
const outputBytesMax = 1 << 20;

/** How `runCommand` starts a program. */
export interface CommandOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Text for the program's standard input; otherwise it reads end of file. */
  readonly input?: string;
  /** Called with each line of output as it comes, for progress. */
  readonly onLine?: (line: string) => void;
}

/**
 * Output of a program that exited with 0; each text is at most `outputBytesMax` characters.
 */
export interface CommandResult {
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * Runs a program to its end.
 * @throws command.notFound when the program does not exist,
 * @throws command.failed when it exits with anything but 0; the message ends with its last lines,
 * @throws deadline.exceeded after killing it.
 */
export async function runCommand(
  argv: readonly [string, ...string[]],
  deadline: Deadline,
  options: CommandOptions = {},
): Promise<CommandResult> {
  const [program, ...args] = argv;
  const child = spawn(program, args, {
    cwd: options.cwd,
    env: { ...process.env, ...options.env },
    stdio: ["pipe", "pipe", "pipe"],
  });
  const stdout = collect(child.stdout, options.onLine);
  const stderr = collect(child.stderr, options.onLine);
  child.stdin.on("error", () => undefined);
  child.stdin.end(options.input ?? "");
  const { promise, resolve, reject } = Promise.withResolvers<string | undefined>();
  child.on("error", reject);
  child.on("close", (code, signal) => resolve(code === 0 ? undefined : (signal ?? `exit ${code}`)));
  let outcome: string | undefined;
  try {
    outcome = await deadline.race(promise);
  } catch (cause) {
    child.kill("SIGKILL");
    if (systemCode(cause) === "ENOENT") {
      throw new TorporError("command.notFound", `${program} is not installed`, { cause });
    }
    throw cause;
  }
  if (outcome !== undefined) {
    const tail = (stderr.text() || stdout.text()).trim().split("\n").slice(-8).join("\n");
    throw new TorporError("command.failed", `${program} ended with ${outcome}: ${tail}`);
  }
  return { stdout: stdout.text(), stderr: stderr.text() };
}

function collect(
  stream: NodeJS.ReadableStream,
  onLine: ((line: string) => void) | undefined,
): { text(): string } {
  let text = "";
  let line = "";
  stream.setEncoding("utf8");
  stream.on("data", (chunk: string) => {
    text = (text + chunk).slice(-outputBytesMax);
    if (onLine === undefined) return;
    const lines = (line + chunk).split(/\r?\n|\r/);
    line = lines.pop() ?? "";
    for (const one of lines) onLine(one);
  });
  return { text: () => text };
}
