/**
 * Translates failed system calls into the terms of the wire: codes of RPCs, statuses of the plain
 * routes, and a text.
 *
 * COMPAT: E2B's clients report `resource_exhausted` as a rate limit, `unavailable`, `canceled` and
 * `deadline_exceeded` as a timeout, and `not_found`, `invalid_argument` and `unauthenticated` as
 * what they say. They show the text of every other code as it is. So a problem of the machine is
 * `failed_precondition` where somebody has to change something, and `aborted` where a retry may
 * succeed. Among the statuses, they treat 507 as an error of its own.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import { systemCode } from "@torpor/std";

interface SystemError {
  readonly code: Code;
  readonly status: number;
  /** Replaces the kernel's own words where those mislead. */
  readonly text?: string;
}

const forbidden: SystemError = { code: Code.PermissionDenied, status: 403 };
const wrongPath: SystemError = { code: Code.InvalidArgument, status: 400 };
const inTheWay: SystemError = { code: Code.FailedPrecondition, status: 409 };
const unsupported: SystemError = { code: Code.FailedPrecondition, status: 400 };

/** By the name of the error. An error that is not in the table is internal, with status 500. */
export const systemErrors: Readonly<Record<string, SystemError>> = {
  E2BIG: {
    code: Code.InvalidArgument,
    status: 400,
    text: "arguments and environment are too long",
  },
  EACCES: forbidden,
  EAGAIN: { code: Code.Aborted, status: 503, text: "the sandbox has no process or thread left" },
  EBUSY: inTheWay,
  EDQUOT: { code: Code.FailedPrecondition, status: 507, text: "the disk quota is used up" },
  EEXIST: { code: Code.AlreadyExists, status: 409 },
  EFBIG: { code: Code.OutOfRange, status: 413, text: "larger than this file system keeps files" },
  EILSEQ: wrongPath,
  EINVAL: wrongPath,
  EISDIR: wrongPath,
  ELOOP: {
    code: Code.FailedPrecondition,
    status: 400,
    text: "too many symbolic links, perhaps in a circle",
  },
  EMFILE: { code: Code.Aborted, status: 503, text: "the agent has no descriptor left" },
  EMLINK: inTheWay,
  ENAMETOOLONG: wrongPath,
  ENFILE: { code: Code.Aborted, status: 503, text: "the sandbox has no descriptor left" },
  ENOENT: { code: Code.NotFound, status: 404 },
  ENOEXEC: { code: Code.InvalidArgument, status: 400 },
  ENOMEM: { code: Code.Aborted, status: 503, text: "the sandbox has no memory left" },
  ENOSPC: { code: Code.FailedPrecondition, status: 507, text: "no space left on the disk" },
  ENOTDIR: wrongPath,
  ENOTEMPTY: inTheWay,
  ENOTSUP: unsupported,
  ENXIO: inTheWay,
  EOPNOTSUPP: unsupported,
  EPERM: forbidden,
  EROFS: { code: Code.PermissionDenied, status: 403, text: "the file system is read-only" },
  ETXTBSY: { code: Code.FailedPrecondition, status: 409, text: "the program is running" },
  EXDEV: inTheWay,
};

/**
 * Turns any error into a `ConnectError`, and returns one unchanged. `what` opens the text: the path
 * or the operation.
 */
export function asConnectError(cause: unknown, what: string): ConnectError {
  if (cause instanceof ConnectError) return cause;
  const known = systemErrors[systemCode(cause) ?? ""];
  const own = cause instanceof Error ? cause.message : String(cause);
  const text = known?.text === undefined ? own : `${known.text} (${systemCode(cause)})`;
  return new ConnectError(`${what}: ${text}`, known?.code ?? Code.Internal, {}, [], cause);
}

/** Whether the request is right but the machine lacks something. */
export function isLack({ code }: ConnectError): boolean {
  return code === Code.Aborted || code === Code.FailedPrecondition;
}

const statusByCode = new Map<Code, number>([
  [Code.InvalidArgument, 400],
  [Code.FailedPrecondition, 400],
  [Code.OutOfRange, 400],
  [Code.Unauthenticated, 401],
  [Code.PermissionDenied, 403],
  [Code.NotFound, 404],
  [Code.Aborted, 503],
  [Code.Unavailable, 503],
]);

/** The status of a plain HTTP answer with this error. */
export function httpStatus(error: ConnectError): number {
  const known = systemErrors[systemCode(error.cause) ?? ""];
  return known?.code === error.code ? known.status : (statusByCode.get(error.code) ?? 500);
}
