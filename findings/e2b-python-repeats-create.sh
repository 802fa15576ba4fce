#!/usr/bin/env bash
# The E2B SDK for Python sends a create four times when a server answers 429, 502, 503 or 504, though each may
# have made a sandbox. The SDK for JavaScript of the same autumn sends it once.
#
# Seen with e2b 2.63.0 of PyPI and e2b 2.51.0 of npm against a server on the loopback that counts. The answer's
# header `Should-Retry: false` stops it; no `Idempotency-Key` goes with the repeats unless the caller gives one.
#
# What follows: a server that may have done what was asked says `Should-Retry: false` with every such status.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-save --ignore-scripts --no-audit --no-fund --prefix . e2b@2.51.0
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check e2b==2.63.0

cat >create.py <<'END'
from e2b import Sandbox

try:
    Sandbox.create()
except Exception:
    pass
END
cat >create.mjs <<'END'
import { Sandbox } from "e2b";

await Sandbox.create().catch(() => undefined);
END
# Answers every request with one status; runs a client against itself, then tells how many creates came.
cat >count.py <<'END'
import http.server
import os
import subprocess
import sys
import threading

status, said, *command = sys.argv[1:]
creates = []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.read_body()
        creates.append(self.headers.get("idempotency-key"))
        self.send_response(int(status))
        if said != "-":
            self.send_header("should-retry", said)
        self.send_header("content-length", "0")
        self.end_headers()

    def read_body(self):
        if "content-length" in self.headers:
            self.rfile.read(int(self.headers["content-length"]))
            return
        while size := int(self.rfile.readline(), 16):
            self.rfile.read(size + 2)
        self.rfile.readline()

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
environment = {**os.environ, "E2B_API_URL": url, "E2B_API_KEY": "e2b_" + "0" * 40}
subprocess.run(command, env=environment, check=True, timeout=120)
print(len(creates), "with a key" if any(creates) else "without a key")
END

expect() {
  seen=$(python3 count.py "${@:3}")
  printf '%-42s creates: %s\n' "$1" "$seen"
  if [ "$seen" != "$2" ]; then
    printf 'CHANGED: expected %s\n' "$2"
    exit 1
  fi
}
for status in 429 502 503 504; do
  expect "Python, $status" "4 without a key" "$status" - venv/bin/python create.py
done
expect "Python, 503 with Should-Retry: false" "1 without a key" 503 false venv/bin/python create.py
expect "JavaScript, 503" "1 without a key" 503 - node create.mjs
echo "As described."
