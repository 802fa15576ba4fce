/** Failed system calls in the words of the wire: RPC codes, and HTTP statuses for the plain routes. */
import { Code, ConnectError } from "@connectrpc/connect";
import { systemCode } from "@torpor/std";

const codeBySystemCode: Readonly<Record<string, Code>> = {
  EACCES: Code.PermissionDenied,
  EDQUOT: Code.ResourceExhausted,
  EEXIST: Code.AlreadyExists,
  EINVAL: Code.InvalidArgument,
  EISDIR: Code.InvalidArgument,
  ELOOP: Code.FailedPrecondition,
  EMFILE: Code.ResourceExhausted,
  ENAMETOOLONG: Code.InvalidArgument,
  ENFILE: Code.ResourceExhausted,
  ENOENT: Code.NotFound,
  ENOSPC: Code.ResourceExhausted,
  ENOTDIR: Code.InvalidArgument,
  EPERM: Code.PermissionDenied,
};

/** Keeps a `ConnectError` as it is. `what` is the path or the deed. */
export function asConnectError(cause: unknown, what: string): ConnectError {
  if (cause instanceof ConnectError) return cause;
  const text = cause instanceof Error ? cause.message : String(cause);
  const code = codeBySystemCode[systemCode(cause) ?? ""] ?? Code.Internal;
  return new ConnectError(`${what}: ${text}`, code, {}, [], cause);
}

const statusByCode = new Map<Code, number>([
  [Code.InvalidArgument, 400],
  [Code.Unauthenticated, 401],
  [Code.PermissionDenied, 403],
  [Code.NotFound, 404],
  [Code.ResourceExhausted, 507],
  [Code.Aborted, 503],
  [Code.Unavailable, 503],
]);

/** The status of a plain HTTP answer. */
export function httpStatus(error: ConnectError): number {
  return statusByCode.get(error.code) ?? 500;
}
