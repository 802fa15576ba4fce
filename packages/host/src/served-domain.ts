/**
 * The text after `<port>-<id>.` in the address of a sandbox: the domain and port of the listener.
 */

/**
 * Returns the text that clients put after a host name and before a path, as E2B's `getHost` does.
 * @param url URL of the listener that clients should use: the one with TLS, if there is one.
 */
export function servedDomain(domain: string, url: string): string {
  // Empty for the scheme's default port.
  const { port } = new URL(url);
  return port === "" ? domain : `${domain}:${port}`;
}
