#!/usr/bin/env bash
# Two paths of one multi-file upload arrive under one name: the E2B SDKs escape a quote as `%22` and leave a `%22`
# that is part of a path as it is. Of backslashes the SDK for Python makes two, and the one for JavaScript does not.
#
# Both send each file as a part of multipart/form-data whose `filename` is the whole path. Seen with e2b 2.51.0 of
# npm and e2b 2.63.0 of PyPI on `Sandbox.files.write_files`, as a server on the loopback reads the header.
#
# What follows: a server that undoes the escape writes one of the two files under the other's name, and one that
# does not, the other way round. It can refuse what is ambiguous; a single-file upload names its path in the query.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-save --ignore-scripts --no-audit --no-fund --prefix . e2b@2.51.0
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check e2b==2.63.0

cat >write.py <<'END'
from e2b import Sandbox

sandbox = Sandbox.connect("sandbox")
try:
    sandbox.files.write_files([{"path": path, "data": "x"} for path in ('/a"b', "/a%22b", "/a\\b")])
except Exception:
    pass
END
cat >write.mjs <<'END'
import { Sandbox } from "e2b";

const sandbox = await Sandbox.connect("sandbox");
const files = ['/a"b', "/a%22b", "/a\\b"].map((path) => ({ path, data: "x" }));
await sandbox.files.write(files).catch(() => undefined);
END
cat >show.py <<'END'
import http.server
import json
import os
import re
import subprocess
import sys
import threading

names = []
answer = {
    "sandboxID": "sandbox", "templateID": "base", "clientID": "x", "envdVersion": "0.6.13",
    "envdAccessToken": "token", "startedAt": "2026-01-01T00:00:00Z", "endAt": "2026-01-01T00:00:00Z",
}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.body()
        names.extend(name.decode() for name in re.findall(rb'filename="([^\r]*)"\r', body))
        text = json.dumps([] if "/files" in self.path else answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def body(self):
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
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
environment = {
    **os.environ, "E2B_API_URL": url, "E2B_SANDBOX_URL": url, "E2B_API_KEY": "e2b_" + "0" * 40,
    "E2B_HTTP_VERSION": "1.1",
}
subprocess.run(sys.argv[1:], env=environment, check=True, timeout=120)
print(" ".join(names))
END

expect() {
  seen=$(python3 show.py "${@:3}")
  printf '%s: %s\n' "$1" "$seen"
  if [ "$seen" != "$2" ]; then
    printf 'CHANGED: expected %s\n' "$2"
    exit 1
  fi
}
echo 'paths: /a"b /a%22b /a\b'
expect JavaScript '/a%22b /a%22b /a\b' node write.mjs
expect Python '/a%22b /a%22b /a\\b' venv/bin/python write.py
echo "As described."
