/**
 * The tunnel of a fake VM's agent: the guest's loopback is this machine's, so that a server of a
 * test is a server in every fake guest.
 */
import type { IncomingMessage } from "node:http";
import { connect } from "node:net";
import type { Duplex } from "node:stream";

/** Connects a CONNECT request to a port of this machine. */
export function openFakeTunnel({ url = "" }: IncomingMessage, socket: Duplex): void {
  const port = Number(url.slice(url.lastIndexOf(":") + 1));
  const inner = connect(port, "127.0.0.1");
  inner.once("connect", () => {
    socket.write("HTTP/1.1 200 OK\r\n\r\n");
    socket.pipe(inner);
    inner.pipe(socket);
  });
  inner.once("error", () => socket.end("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"));
  socket.on("error", () => inner.destroy());
  socket.once("close", () => inner.destroy());
  inner.once("close", () => socket.destroy());
}
