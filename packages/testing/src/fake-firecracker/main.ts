/**
 * A program whose API and files behave like Firecracker's: see vmm.ts.
 *
 * A test acts inside the guest by the fake's own routes, below /fake.
 */
import { type IncomingMessage, type ServerResponse, createServer } from "node:http";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { type Answer, FakeVmm } from "./vmm.ts";

const { values } = parseArgs({
  options: {
    id: { type: "string", default: "anonymous-instance" },
    "api-sock": { type: "string", default: "/run/firecracker.socket" },
    "log-path": { type: "string" },
    level: { type: "string" },
    "start-time-us": { type: "string" },
    "start-time-cpu-us": { type: "string" },
    "parent-cpu-time-us": { type: "string" },
  },
});
const root = process.env["FAKE_JAIL_ROOT"] ?? "/";
const release = process.env["FAKE_RELEASE"] ?? "1.16.1";
/** LIMIT: the default of the real Firecracker. */
const bodyBytesMax = 51_200;

const vmm = new FakeVmm({ id: values.id, release, inJail: (path) => join(root, path) });
/** INVARIANT: one request at a time. */
let last: Promise<unknown> = Promise.resolve();

const server = createServer((request, response) => {
  let text = "";
  request.setEncoding("utf8");
  request.on("data", (chunk: string) => (text += chunk));
  request.on("end", () => {
    last = inTurn(last, () => answer(request, response, text));
  });
});
// This process itself is in no jail: it uses the socket's path outside of it.
server.listen(values["api-sock"]);
process.stdout.write("the fake guest's console\n");

function inGuest(url: string, text: string): Answer {
  const { guest } = vmm;
  if (guest === undefined) return { status: 400, body: { fault_message: "there is no guest" } };
  if (url === "/fake/recall") return { status: 200, body: guest.recall() };
  guest.remember(text);
  return { status: 204 };
}

async function inTurn(before: Promise<unknown>, work: () => Promise<void>): Promise<void> {
  await before;
  await work();
}

async function answer(
  { method = "", url = "" }: IncomingMessage,
  response: ServerResponse,
  text: string,
): Promise<void> {
  const { status, body, isFatal }: Answer =
    text.length > bodyBytesMax
      ? { status: 400, body: { fault_message: "Request payload is too large." } }
      : url.startsWith("/fake/")
        ? inGuest(url, text)
        : vmm.serve(method, url, text);
  const type = body === undefined ? {} : { "content-type": "application/json" };
  response.writeHead(status, { server: "Firecracker API", ...type });
  response.end(body === undefined ? undefined : JSON.stringify(body));
  if (isFatal !== true) return;
  process.stderr.write("Error: RunWithApi(BuildMicrovmFromRequests(Restore))\n");
  response.once("close", () => process.exit(1));
}
