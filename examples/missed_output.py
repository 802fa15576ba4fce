"""
The output of a command in a sandbox, without a gap where the connection was cut: for use beside the
published E2B SDK, whose calls have no place for the header that asks for what was missed.

    output = Output(sandbox, handle.pid)
    try:
        for stdout, stderr in output.read():
            sys.stdout.buffer.write(stdout)
    except OutputError:
        sandbox.connect()  # the sandbox was paused: wake it
        for stdout, stderr in output.read():  # what was missed comes first
            sys.stdout.buffer.write(stdout)

The sandbox keeps the last MiB of each command, until 30 s after its end. If what was missed is no longer
kept, `read` raises `out_of_range`. It needs Python 3.10 or newer and the variable `E2B_SANDBOX_URL`.
"""

import base64
import http.client
import json
import os
import struct
import urllib.error
import urllib.request

AGENT_PORT = "49983"
LAST_ENVELOPE = 2
KEEPALIVE_SECONDS = 20
SILENCE_SECONDS = 60


class OutputError(Exception):
    """A stream that ended before its command; `code` is Connect's, such as "unavailable"."""

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code = code


class Output:
    """The output of one command from its first byte on. `sandbox` is a sandbox of the SDK, sync or async."""

    def __init__(self, sandbox, pid, sandbox_url=None):
        self.exit_code = None
        self._url = (sandbox_url or os.environ["E2B_SANDBOX_URL"]) + "/process.Process/Connect"
        self._body = _envelope({"process": {"pid": pid}})
        self._offsets = [0, 0]
        self._headers = {
            "content-type": "application/connect+json",
            "connect-protocol-version": "1",
            "keepalive-ping-interval": str(KEEPALIVE_SECONDS),
            "e2b-sandbox-id": sandbox.sandbox_id,
            "e2b-sandbox-port": AGENT_PORT,
            "x-access-token": sandbox._envd_access_token or "",
        }

    def read(self):
        """
        Yields pairs of bytes, standard output and standard error, until the command ends. May be called
        again after it raised: it continues with the first byte that was not yielded.
        """
        offsets = ",".join(map(str, self._offsets))
        headers = {**self._headers, "torpor-output-offset": offsets}
        request = urllib.request.Request(self._url, self._body, headers)
        try:
            with urllib.request.urlopen(request, timeout=SILENCE_SECONDS) as answer:
                yield from self._messages(answer)
        except urllib.error.HTTPError as error:
            raise OutputError(f"http {error.code}", error.read().decode()) from None
        except (OSError, http.client.HTTPException) as error:
            raise OutputError("unavailable", str(error)) from error

    def _messages(self, answer):
        while True:
            flags, size = struct.unpack(">BI", _read_all(answer, 5))
            message = json.loads(_read_all(answer, size))
            if flags & LAST_ENVELOPE:
                error = message.get("error")
                if error:
                    raise OutputError(error["code"], error.get("message", ""))
                return
            event = message.get("event", {})
            if "end" in event:
                self.exit_code = event["end"].get("exitCode", 0)
            if "data" in event:
                yield self._count(event["data"])

    def _count(self, data):
        pair = [base64.b64decode(data.get(name, "")) for name in ("stdout", "stderr")]
        self._offsets = [offset + len(piece) for offset, piece in zip(self._offsets, pair)]
        return tuple(pair)


def _envelope(message):
    payload = json.dumps(message).encode()
    return struct.pack(">BI", 0, len(payload)) + payload


def _read_all(answer, size):
    data = answer.read(size)
    if len(data) < size:
        raise OutputError("unavailable", "the stream was cut off")
    return data
