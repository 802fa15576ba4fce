/**
 * The one closed table of error codes, and the one error class that carries them.
 *
 * Every failure a user can meet is a `TorporError`. It says what happened (`rawMessage`), whether
 * the request may have taken effect (`effect`), and what to do next (`advice`). Codes, statuses and
 * advice live in this table only; the API, the CLI and the logs read them from here. A broken
 * invariant is a different thing and is raised by `assert` (see assert.ts).
 */

/** Whether a failed request may have changed anything. */
export type Effect = "none" | "maybe" | "done";

/**
 * When sending the same request again can help: never, as it is, or only after something changed.
 */
export type Retry = "never" | "sameRequest" | "afterChange";

interface ErrorRow {
  /** HTTP status of the answer. */
  readonly status: number;
  readonly retry: Retry;
  /** The effect unless the thrower knows better. */
  readonly effect: Effect;
  /** One sentence: what to do next. */
  readonly advice: string;
}

const table = {
  "argument.invalid": row(400, "afterChange", "none", "Correct the named argument and try again."),
  "auth.forbidden": row(
    403,
    "afterChange",
    "none",
    "Use credentials of the team that it belongs to, or leave the team out.",
  ),
  "auth.missing": row(401, "afterChange", "none", "Send a valid key in the X-API-Key header."),
  canceled: row(499, "sameRequest", "maybe", "Look at the state, then repeat the request."),
  "command.failed": row(500, "afterChange", "maybe", "Read the output of the command above."),
  "command.notFound": row(
    500,
    "afterChange",
    "none",
    "Run `torpor doctor`: it names the missing package.",
  ),
  "daemon.alreadyRunning": row(
    409,
    "never",
    "none",
    "Use the running daemon, or stop it first with `torpor down`.",
  ),
  "daemon.ending": row(
    503,
    "afterChange",
    "none",
    "Start the daemon again with `torpor up`, then repeat the request.",
  ),
  "daemon.unreachable": row(
    503,
    "sameRequest",
    "none",
    "Start the daemon with `torpor up`, or read its log with `torpor logs --daemon`.",
  ),
  "deadline.exceeded": row(504, "sameRequest", "maybe", "Look at the state, then try again."),
  "guest.portClosed": row(
    502,
    "afterChange",
    "none",
    "Start a server in the sandbox that listens on this port.",
  ),
  "guest.unreachable": row(
    502,
    "sameRequest",
    "maybe",
    "Read the console with `torpor logs ID`; remove the sandbox if it stays silent.",
  ),
  "guest.refused": row(502, "afterChange", "maybe", "Read the console with `torpor logs ID`."),
  "host.busy": row(429, "sameRequest", "none", "Repeat the request in a moment."),
  "host.unknown": row(
    421,
    "never",
    "none",
    "Use an address of the form PORT-ID.DOMAIN, or send an API key to use the API.",
  ),
  internal: row(500, "never", "maybe", "This is a bug in Torpor: please report it with the log."),
  "key.missing": row(404, "never", "none", "List the keys with `torpor keys ls`."),
  "network.failed": row(500, "afterChange", "none", "Run `torpor doctor` to check /dev/net/tun."),
  "network.unenforceable": row(
    409,
    "afterChange",
    "none",
    "Run the daemon as root, on a kernel with BPF, or ask for no internet access.",
  ),
  "operation.unimplemented": row(501, "never", "none", "This version cannot do that."),
  "port.inUse": row(
    409,
    "afterChange",
    "none",
    "End the program that holds the port, or set TORPOR_PORT to another one.",
  ),
  "rate.limited": row(
    429,
    "sameRequest",
    "none",
    "Repeat the request after what Retry-After says.",
  ),
  "request.badVersion": row(505, "afterChange", "none", "Send HTTP/1.1 or HTTP/2."),
  "request.expectation": row(417, "afterChange", "none", "Leave the Expect header out."),
  "request.headTooLarge": row(431, "afterChange", "none", "Send fewer or shorter headers."),
  "request.keyReused": row(
    422,
    "afterChange",
    "none",
    "Send a new Idempotency-Key with a new request; a repeat is the request as it was.",
  ),
  "request.slow": row(408, "sameRequest", "none", "Send the whole request without long breaks."),
  "request.tooLarge": row(413, "afterChange", "none", "Send a smaller body."),
  "route.missing": row(404, "never", "none", "Look at GET /openapi.json for what there is."),
  "root.required": row(403, "afterChange", "none", "Run the same command as root."),
  "sandbox.notFound": row(404, "never", "none", "List the sandboxes with `torpor ls`."),
  "sandbox.stale": row(
    409,
    "never",
    "none",
    "Look at the state with `torpor info ID`: the sandbox was resumed or went back meanwhile.",
  ),
  "sandbox.wrongState": row(
    409,
    "afterChange",
    "none",
    "Look at the state with `torpor info ID` and ask for what that state allows.",
  ),
  "secrets.damaged": row(
    500,
    "never",
    "none",
    "Restore the state folder from a copy, or remove the sandbox.",
  ),
  "secrets.locked": row(
    503,
    "afterChange",
    "none",
    "Put the key file of this state folder back, or name it with TORPOR_KEY_FILE, and start the daemon.",
  ),
  "snapshot.corrupt": row(
    500,
    "never",
    "none",
    "The snapshot on disk is damaged; restore it from a copy or remove the sandbox.",
  ),
  "snapshot.incompatible": row(
    409,
    "afterChange",
    "none",
    "Resume it on a machine and with a VMM that match the snapshot.",
  ),
  "storage.exposed": row(
    403,
    "afterChange",
    "none",
    "Make it its owner's alone, or name another place with TORPOR_HOME or TORPOR_KEY_FILE.",
  ),
  "storage.failed": row(500, "afterChange", "maybe", "Check the disk that holds the state folder."),
  "storage.noSpace": row(507, "afterChange", "none", "Free disk space and try again."),
  "template.replaced": row(
    409,
    "afterChange",
    "none",
    "Put the template's folder back as it was, from a copy of the cache folder; else remove the sandbox.",
  ),
  "template.missing": row(
    404,
    "afterChange",
    "none",
    "See which snapshots there are with `torpor snapshot ls`; `base` is the template that is there always.",
  ),
  "vmm.damaged": row(
    500,
    "afterChange",
    "none",
    "Run `torpor up`: it mends its copy of QEMU while the same one is installed.",
  ),
  "vmm.exited": row(500, "sameRequest", "maybe", "Read the console with `torpor logs ID`."),
  "vmm.failed": row(500, "sameRequest", "maybe", "Read the VMM log with `torpor logs ID`."),
  "vmm.missing": row(503, "afterChange", "none", "Install QEMU: run `torpor up` as root."),
} as const satisfies Record<string, ErrorRow>;

/** A code of the table; part of the API, so that a client can rely on it. */
export type ErrorCode = keyof typeof table;

/** All codes with their rows, for documentation and exhaustive tests. */
export const errorTable: Readonly<Record<ErrorCode, ErrorRow>> = table;

/** Two copies of this package may meet in one process, so errors are recognized by this brand. */
const brand: unique symbol = Symbol.for("torpor.error");

/** The form in which an error crosses a process boundary. */
export interface ErrorBody {
  /** Same number as the HTTP status. */
  readonly code: number;
  readonly message: string;
  readonly error_code: ErrorCode;
  readonly effect: Effect;
  readonly advice: string;
}

/** Overrides for what the table says of the code, and what the error carries besides. */
export interface TorporErrorOptions {
  readonly effect?: Effect;
  /** Ids and numbers for a program; never a sentence. */
  readonly details?: Readonly<Record<string, string | number | boolean>>;
  readonly cause?: unknown;
  /** Replaces the advice of the table when the thrower knows the exact next step. */
  readonly advice?: string;
}

/**
 * A failure that a user can meet: a code of the table, what happened, its effect and the advice.
 * Its `message` is the code and what happened; `rawMessage` is the latter alone.
 */
export class TorporError extends Error {
  readonly code: ErrorCode;
  /** The message without the code in front. */
  readonly rawMessage: string;
  readonly effect: Effect;
  readonly advice: string;
  readonly details: Readonly<Record<string, string | number | boolean>>;
  readonly [brand] = true;

  constructor(code: ErrorCode, message: string, options: TorporErrorOptions = {}) {
    super(
      `${code}: ${message}`,
      options.cause === undefined ? undefined : { cause: options.cause },
    );
    this.name = "TorporError";
    this.code = code;
    this.rawMessage = message;
    this.effect = options.effect ?? table[code].effect;
    this.advice = options.advice ?? table[code].advice;
    this.details = options.details ?? {};
  }

  get status(): number {
    return table[this.code].status;
  }

  get retry(): Retry {
    return table[this.code].retry;
  }

  toBody(): ErrorBody {
    return {
      code: this.status,
      message: this.rawMessage,
      error_code: this.code,
      effect: this.effect,
      advice: this.advice,
    };
  }

  static is(value: unknown): value is TorporError {
    return typeof value === "object" && value !== null && brand in value;
  }

  /** The only catch-all: keeps a `TorporError` as it is, and wraps anything else under `code`. */
  static from(value: unknown, code: ErrorCode, context?: string): TorporError {
    if (TorporError.is(value)) return value;
    const text = value instanceof Error ? value.message : String(value);
    return new TorporError(isNoSpace(value) ? "storage.noSpace" : code, prefixed(context, text), {
      cause: value,
    });
  }

  /**
   * Rebuilds an error that another process sent, whatever it sent; an unknown code becomes
   * `internal`.
   */
  static fromBody(body: unknown): TorporError {
    const fields = Object(body) as { readonly [Field in keyof ErrorBody]?: unknown };
    const { error_code: code, message, effect, advice } = fields;
    return new TorporError(
      isErrorCode(code) ? code : "internal",
      typeof message === "string" ? message : "no message",
      {
        ...(effect === "none" || effect === "maybe" || effect === "done" ? { effect } : {}),
        ...(typeof advice === "string" ? { advice } : {}),
      },
    );
  }
}

/** The `code` of a Node system error (`ENOENT`, …), or undefined. */
export function systemCode(value: unknown): string | undefined {
  if (!(value instanceof Error) || !("code" in value)) return undefined;
  return typeof value.code === "string" ? value.code : undefined;
}

/**
 * Ignores a failure on purpose, with the reason at the call, so that every such place can be found.
 */
export async function ignoreFailure(_why: string, work: Promise<unknown>): Promise<void> {
  await work.then(
    () => undefined,
    () => undefined,
  );
}

function isErrorCode(value: unknown): value is ErrorCode {
  return typeof value === "string" && Object.hasOwn(table, value);
}

function row(status: number, retry: Retry, effect: Effect, advice: string): ErrorRow {
  return { status, retry, effect, advice };
}

function prefixed(context: string | undefined, text: string): string {
  return context === undefined ? text : `${context}: ${text}`;
}

function isNoSpace(value: unknown): boolean {
  const code = systemCode(value);
  return code === "ENOSPC" || code === "EDQUOT";
}
