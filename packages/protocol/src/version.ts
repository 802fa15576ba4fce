/**
 * The version of the E2B agent that ours behaves like; clients switch features on by it.
 * COMPAT: raise it only when every feature up to the new version works.
 */
export const envdVersion = "0.6.13";
