/**
 * How the agent reports the end of a process to clients: in the words of Go's `os.ProcessState`.
 */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { ProcessEvent_EndEventSchema } from "@torpor/protocol";
import { assert } from "@torpor/std";

/** Clients look for some of these literally: "signal: killed". */
const signalText: Readonly<Partial<Record<NodeJS.Signals, string>>> = {
  SIGABRT: "aborted",
  SIGALRM: "alarm clock",
  SIGBUS: "bus error",
  SIGFPE: "floating point exception",
  SIGHUP: "hangup",
  SIGILL: "illegal instruction",
  SIGINT: "interrupt",
  SIGKILL: "killed",
  SIGPIPE: "broken pipe",
  SIGQUIT: "quit",
  SIGSEGV: "segmentation fault",
  SIGSYS: "bad system call",
  SIGTERM: "terminated",
  SIGTRAP: "trace/breakpoint trap",
  SIGUSR1: "user defined signal 1",
  SIGUSR2: "user defined signal 2",
  SIGXCPU: "cpu time limit exceeded",
  SIGXFSZ: "file size limit exceeded",
};

/**
 * The last event of a process. Either `exitCode` or `signal` is given, as Node's `exit` event has
 * them.
 */
export function endEvent(
  exitCode: number | null,
  signal: NodeJS.Signals | null,
): MessageInitShape<typeof ProcessEvent_EndEventSchema> {
  if (signal !== null) {
    const status = `signal: ${signalText[signal] ?? signal.toLowerCase()}`;
    return { exitCode: -1, exited: false, status, error: status };
  }
  assert(exitCode !== null, "a process ends by a code or by a signal");
  const status = `exit status ${exitCode}`;
  if (exitCode === 0) return { exitCode, exited: true, status };
  return { exitCode, exited: true, status, error: status };
}
