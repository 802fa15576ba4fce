#!/usr/bin/env bash
# A command of the E2B SDKs ends when the response stream does, and not with the event that says how it ended.
#
# `commands.run` reads a Connect stream of events: start, data, end. Seen with e2b 2.51.0 of npm and e2b 2.63.0 of
# PyPI against a server on the loopback that plays the agent:
#   whole     events start and end, then the envelope that ends the stream: exit code 0 with both.
#   held      the same events, and the response stays open: both raise a timeout, though the exit code is known.
#   cut       the same events, and the response ends without the last envelope: JavaScript raises, Python gives 0.
#   early     a keepalive in front of start: both raise at once.
#
# What follows: an agent ends the response at once after `end`, always with the last envelope, and sends nothing
# before `start`, whatever a proxy between would like to see.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-save --ignore-scripts --no-audit --no-fund --prefix . e2b@2.51.0
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check e2b==2.63.0

cat >run.py <<'END'
from e2b import Sandbox

sandbox = Sandbox.connect("sandbox")
try:
    print("exit code", sandbox.commands.run("true", timeout=2).exit_code)
except Exception as error:
    print(type(error).__name__)
END
cat >run.mjs <<'END'
import { Sandbox } from "e2b";

const sandbox = await Sandbox.connect("sandbox");
try {
  console.log("exit code", (await sandbox.commands.run("true", { timeoutMs: 2000 })).exitCode);
} catch (error) {
  console.log(error.constructor.name);
}
END
cat >agent.py <<'END'
import http.server
import json
import os
import struct
import subprocess
import sys
import threading
import time

story, *command = sys.argv[1:]
SANDBOX = {
    "sandboxID": "sandbox", "templateID": "base", "clientID": "x", "envdVersion": "0.6.13",
    "envdAccessToken": "token", "startedAt": "2026-01-01T00:00:00Z", "endAt": "2026-01-01T00:00:00Z",
}
# Field numbers of process.StartResponse, as the SDKs' own descriptors have them.
EVENTS = {
    "json": {
        "start": b'{"event":{"start":{"pid":7}}}',
        "end": b'{"event":{"end":{"exitCode":0,"exited":true,"status":"exit status 0"}}}',
        "keepalive": b'{"event":{"keepalive":{}}}',
    },
    "proto": {
        "start": bytes.fromhex("0a040a020807"),
        "end": bytes.fromhex("0a131a1110011a0d") + b"exit status 0",
        "keepalive": bytes.fromhex("0a022200"),
    },
}


def envelope(payload, flags=0):
    return struct.pack(">BI", flags, len(payload)) + payload


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.read_body()
        if not self.path.endswith("/process.Process/Start"):
            self.answer(json.dumps(SANDBOX).encode())
            return
        assert body
        kind = self.headers["content-type"].removeprefix("application/connect+")
        names = ["keepalive", "start", "end"] if story == "early" else ["start", "end"]
        self.send_response(200)
        self.send_header("content-type", self.headers["content-type"])
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for name in names:
            self.chunk(envelope(EVENTS[kind][name]))
        if story == "held":
            time.sleep(6)
        if story != "cut":
            self.chunk(envelope(b"{}", flags=2))
        self.chunk(b"")

    def do_GET(self):
        self.send_response(204)
        self.end_headers()

    def answer(self, text):
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def chunk(self, data):
        try:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        except OSError:
            pass  # the client has gone

    def read_body(self):
        if "content-length" in self.headers:
            return self.rfile.read(int(self.headers["content-length"]))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
environment = {
    **os.environ, "E2B_API_URL": url, "E2B_SANDBOX_URL": url, "E2B_API_KEY": "e2b_" + "0" * 40,
    "E2B_HTTP_VERSION": "1.1",
}
subprocess.run(command, env=environment, check=True, timeout=60)
END

expect() {
  seen=$(python3 agent.py "${@:3}")
  printf '%-18s %s\n' "$1" "$seen"
  if [ "$seen" != "$2" ]; then
    printf 'CHANGED: expected %s\n' "$2"
    exit 1
  fi
}
expect "JavaScript, whole" "exit code 0" whole node run.mjs
expect "Python, whole" "exit code 0" whole venv/bin/python run.py
expect "JavaScript, held" "TimeoutError" held node run.mjs
expect "Python, held" "TimeoutException" held venv/bin/python run.py
expect "JavaScript, cut" "SandboxError" cut node run.mjs
expect "Python, cut" "exit code 0" cut venv/bin/python run.py
expect "JavaScript, early" "Error" early node run.mjs
expect "Python, early" "SandboxException" early venv/bin/python run.py
echo "As described."
