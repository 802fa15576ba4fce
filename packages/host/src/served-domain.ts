/** What stands behind `<port>-<id>.` in an address that leads to a sandbox: the domain, and the port. */

/**
 * Clients put it after a host name and before a path, as E2B's `getHost` does.
 * @param url Of the listener that clients are to use: the one with TLS, where there is one.
 */
export function servedDomain(domain: string, url: string): string {
  // Empty for the usual port of the scheme.
  const { port } = new URL(url);
  return port === "" ? domain : `${domain}:${port}`;
}
