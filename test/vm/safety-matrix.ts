/**
 * The matrix of snapshot safety: what a snapshot must not lose, double or get wrong, and the tests that
 * hold it. They know nothing of a VMM: TORPOR_VMM has set-up choose the one they all run under.
 */
export const safetyMatrix = [
  {
    concern: "random numbers, identity, clock and sockets",
    file: "siblings.test.ts",
    title: "siblings",
  },
  { concern: "connections", file: "connections.test.ts", title: "no connection outlives a pause" },
  {
    concern: "memory with its pages of zeros, and disk",
    file: "memory.test.ts",
    title: "every byte of memory and disk comes back",
  },
  { concern: "hooks", file: "hooks.test.ts", title: "hooks" },
  {
    concern: "processes, over a restart of the daemon too",
    file: "sleep-and-wake.test.ts",
    title: "a sandbox sleeps on disk and wakes where it was",
  },
] as const;
