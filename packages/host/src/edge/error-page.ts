/** The page for a person whose browser does not reach a guest. */
import type { Refusal } from "./refusal.ts";

const advice: Readonly<Record<number, string>> = {
  400: "Correct the address. It has the form PORT-SANDBOX.DOMAIN.",
  403: "Ask the owner of the sandbox for its token.",
  404: "This address is not for clients.",
  409: "The sandbox is being paused or woken. Load this page again in a moment.",
  429: "Too much is going on at once. Load this page again in a moment.",
};
const closedPortAdvice = "Start a server in the sandbox that listens on this port.";
const noSandboxAdvice =
  "See with `torpor ls` whether it is there, and wake it with `torpor resume`.";

/** Makes the HTML of a refusal; texts from outside are escaped. */
export function errorPage({ status, message, sandboxId, port, page }: Refusal): string {
  const facts = [
    sandboxId === undefined ? undefined : `Sandbox ${sandboxId}`,
    port === undefined ? undefined : `port ${port}`,
  ].filter((fact) => fact !== undefined);
  const title = page?.title ?? message;
  const next =
    page?.advice ?? advice[status] ?? (port === undefined ? noSandboxAdvice : closedPortAdvice);
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>${status} ${escape(title)}</title>
<style>
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 36rem; margin: 20vh auto 0; padding: 0 1rem }
h1 { font-size: 1.25rem }
p { color: GrayText }
:root { color-scheme: light dark }
</style>
<h1>${escape(title)}</h1>
<p>${escape(next)}</p>
<p>${escape([...facts, `status ${status}`].join(", "))}</p>
</html>
`;
}

function escape(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
