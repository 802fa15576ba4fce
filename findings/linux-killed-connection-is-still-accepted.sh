#!/usr/bin/env bash
# A connection that `ss --kill` destroyed before the program took it is still accepted, and still has its bytes.
#
# accept(2) names ECONNABORTED for a connection that was aborted in the queue, so one expects accept to fail with it.
# Seen on Linux 6.18.44 with iproute2 6.1.0 and Python 3.11, over the loopback:
#   destroyed in the queue            accept succeeds; the bytes that had come are read, then ECONNABORTED, then the end
#   destroyed after accept            the same reads
#   reset by its client in the queue  the same, with ECONNRESET
# The client reads ECONNRESET at once.
#
# What follows: destroying a program's connections does not take back the requests in them, so the program may act
# on a request that its client saw fail. A server that takes only ECONNRESET and EPIPE for the ordinary end of a
# connection must take ECONNABORTED from a read too.
#
# It needs a kernel with INET_DIAG_DESTROY, and root or user namespaces: it works in a network of its own.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

cat >probe.py <<'PROBE'
import socket
import struct
import subprocess

RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: close sends RST


def connect():
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    client.sendall(b"hello")
    return server, client


def destroy(server, client):
    ends = f"sport = :{server.getsockname()[1]} and dport = :{client.getsockname()[1]}"
    killed = subprocess.run(["ss", "-KHtn", ends], check=True, capture_output=True, text=True).stdout
    assert len(killed.splitlines()) == 1, "this kernel does not destroy sockets"


def reset(_, client):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.close()


def read(connection):
    seen = []
    for _ in range(3):
        try:
            seen.append(str(connection.recv(64)))
        except OSError as error:
            seen.append(type(error).__name__)
    return " ".join(seen)


def queued(end):
    server, client = connect()
    end(server, client)
    connection, _ = server.accept()
    return read(connection), client


def accepted(end):
    server, client = connect()
    connection, _ = server.accept()
    end(server, client)
    return read(connection), client


seen, client = queued(destroy)
print("destroyed in the queue:", seen)
print("its client:", read(client).split()[0])
print("destroyed after accept:", accepted(destroy)[0])
print("reset in the queue:", queued(reset)[0])
PROBE

expected="destroyed in the queue: b'hello' ConnectionAbortedError b''
its client: ConnectionResetError
destroyed after accept: b'hello' ConnectionAbortedError b''
reset in the queue: b'hello' ConnectionResetError b''"
seen=$(unshare --map-root-user --net sh -c 'ip link set lo up && python3 probe.py')
printf '%s\n\n' "$seen"
if [ "$seen" != "$expected" ]; then
  printf 'CHANGED: expected\n%s\n' "$expected"
  exit 1
fi
echo "As described."
