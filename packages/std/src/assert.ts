/** A broken invariant: a bug in Torpor, never a user's mistake. Kept on in production. */
export class BugError extends Error {
  override readonly name = "BugError";
}

/** @throws BugError when `condition` does not hold. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new BugError(message);
}

/** Marks the branch that the types say cannot be reached. */
export function assertNever(value: never): never {
  throw new BugError(`unexpected value: ${JSON.stringify(value)}`);
}
