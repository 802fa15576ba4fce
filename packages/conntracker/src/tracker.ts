/**
 * Makes sure that no connection of a Node HTTP server outlives a snapshot of the machine it runs in.
 *
 * A snapshot keeps sockets whose peers will be gone when it is restored. Used again, such a socket
 * hangs, or answers nobody. The tracker owns the set of a server's connections and three calls, made
 * by whoever takes and restores the snapshot:
 *
 *   prepareForSnapshot()        close what is not in use, let what is in use end
 *        │
 *        ├── cancel()           no snapshot was taken: serve as before
 *        │
 *     (freeze … restore)        the process cannot notice this
 *        │
 *   restoreAfterSnapshot(g)     destroy what the snapshot kept, serve as before
 *
 * Generations. Every connection belongs to a generation, and restoring to generation g destroys each
 * one below g. The number comes from outside, a larger one for every restore. A flag ("destroy at the
 * next request") would not do: any request sets it off, a health check from inside the machine too,
 * and the restore proper then finds it used up. No request, no connection and no `adopt` changes the
 * generation of the tracker; only `restoreAfterSnapshot` does.
 *
 * New or old? Between the restore of the machine and the call that announces it, the process accepts
 * connections as if nothing had happened. Those look exactly like the ones accepted between
 * `prepareForSnapshot` and the freeze: same state, same age as far as any clock in here can tell. So
 * nothing is guessed. What is open is old unless it has proved otherwise, by carrying a generation
 * that only somebody after the restore can know:
 *
 *   - `restoreAfterSnapshot(g, { carrier })` spares the connection the call arrived on;
 *   - `adopt(socket, g)` spares one more, say that of an authenticated health check naming g. From
 *     then on it is kept alive, so that the restore can be announced on the same connection.
 *
 * Guessing "old" wrongly costs a peer one reconnect. Guessing "new" wrongly keeps a dead socket. For
 * the same reason the next `prepareForSnapshot` takes every adoption back: whatever is open then is
 * older than the restore to come, no matter what was claimed about it.
 *
 * SAFETY: the caller authenticates the requests that lead to these calls; the tracker cannot.
 * INVARIANT: the tracker's generation never falls. Without an adoption no connection's exceeds it.
 *
 * What had not been accepted. A connection may be with the kernel at the freeze and reach the process
 * only after the restore was announced. The kernel hands them out in order: behind one that is newer than
 * the snapshot there is no older one, and without one as many are old as the kernel holds at the restore.
 *
 * Ten thousand connections. Each is closed for the process when a call returns, and nothing is served on
 * it any more; the kernel closes them in slices behind that. See closings.ts, and `settled`.
 *
 * No call but `settled` waits. None sets a timer or does I/O other than closing sockets, sending GOAWAY
 * and reading the length of the kernel's queues.
 */
import { TLSSocket, Server as TlsServer } from "node:tls";
import type { Socket } from "node:net";
import { waitingCount } from "./accept-queue.ts";
import { Closings } from "./closings.ts";
import { Connection, type ConnectionInfo, type ConnectionState } from "./connection.ts";
import { checkGeneration } from "./errors.ts";
import { ServerWatch, type TrackableServer } from "./server-watch.ts";

export interface PrepareCounts {
  /** Connections closed by this call: silent, idle, or with half a request. */
  readonly closed: number;
  /** Connections still open: being answered, or upgraded. A restore destroys what is left of them. */
  readonly recorded: number;
}

export interface RestoreCounts {
  /** Connections destroyed by this call. */
  readonly destroyed: number;
}

export interface RestoreOptions {
  /**
   * The socket the call itself arrived on (`request.socket`). It is newer than the snapshot, and is
   * spared. Leave it out when the call came by another way than this server.
   */
  readonly carrier?: Socket | undefined;
}

export class ServerConnTracker {
  readonly #connections = new Set<Connection>();
  readonly #watch: ServerWatch;
  readonly #encrypted: boolean;
  readonly #server: TrackableServer;
  readonly #closings = new Closings();
  #phase: "serving" | "prepared" = "serving";
  #generation = 0;
  #goneCount = 0;
  /** Connections still to be accepted that are older than the last restore. */
  #oldInQueue = 0;

  /**
   * Follows `server` from now on; connections it accepted earlier are not known. So attach before
   * `listen`. Use one tracker per server.
   */
  constructor(server: TrackableServer) {
    this.#server = server;
    this.#encrypted = server instanceof TlsServer;
    this.#watch = new ServerWatch(server, {
      accept: (socket) => this.#accept(socket),
      onRefused: () => this.#takeFromQueue(),
    });
  }

  /** The generation new connections belong to: 0 at first, then that of the last restore. */
  get generation(): number {
    return this.#generation;
  }

  /** Whether a snapshot is being prepared, and every answer therefore ends its connection. */
  get prepared(): boolean {
    return this.#phase === "prepared";
  }

  /**
   * Gets the connections ready for a snapshot.
   *
   * Those no request is being answered on are closed when this returns, or in the case of HTTP/2
   * sessions as soon as GOAWAY is written. The others finish: each answer says `Connection: close` if
   * its headers are still unsent, otherwise its socket is ended after it; HTTP/2 sessions get GOAWAY.
   * Upgraded connections are left alone. The request that asked for this is one of the others, and
   * so are those that come later, until `restoreAfterSnapshot` or `cancel`. Safe to repeat: closes
   * what has fallen idle since.
   */
  prepareForSnapshot(): PrepareCounts {
    this.#phase = "prepared";
    let closed = 0;
    let recorded = 0;
    for (const connection of this.#connections) {
      connection.generation = Math.min(connection.generation, this.#generation);
      switch (connection.state) {
        case "new":
        case "idle":
          connection.hangUp();
          closed += 1;
          break;
        case "active":
        case "upgraded":
          connection.finish();
          recorded += 1;
          break;
        case "closed":
          break;
      }
    }
    return { closed, recorded };
  }

  /**
   * Destroys every connection of a generation below `generation`, except the carrier's, and serves
   * as before. Connections accepted from now on belong to `generation`, but for those that the kernel had
   * before: they are destroyed as they come, and are not in the count. The peer of one that is destroyed
   * is sent a reset, and nothing that was written to it is sent again.
   *
   * Without a `prepareForSnapshot` before it nothing is destroyed and only the generation advances.
   * Repeating it with the same generation changes nothing.
   * @throws StaleGenerationError when `generation` is below the tracker's; nothing has changed.
   * @throws RangeError when `generation` is not a whole number from 0 up.
   */
  restoreAfterSnapshot(generation: number, options: RestoreOptions = {}): RestoreCounts {
    checkGeneration(generation, this.#generation);
    if (options.carrier !== undefined) this.adopt(options.carrier, generation);
    if (generation === this.#generation) return { destroyed: 0 };
    this.#generation = generation;
    if (!this.prepared) return { destroyed: 0 };
    // Every connection left has proved newer than the snapshot, and is kept alive since it did.
    this.#phase = "serving";
    const open = [...this.#connections];
    const old = open.filter((connection) => connection.generation < generation);
    const destroyed = old.filter((connection) => connection.state !== "closed").length;
    this.#closings.resetWaiting();
    for (const connection of old) connection.destroy();
    this.#oldInQueue = old.length === open.length ? waitingCount(this.#server) : 0;
    return { destroyed };
  }

  /**
   * Resolves when the kernel has closed what the calls before have closed. Wait for it between
   * `prepareForSnapshot` and the snapshot. Ten thousand connections take some hundred turns of the event
   * loop.
   */
  async settled(): Promise<void> {
    await this.#closings.settled();
  }

  /**
   * Serves as before: no snapshot was taken, or the machine goes on after one. Connections in use
   * live on, and are kept alive unless their peer has been told otherwise. Without a
   * `prepareForSnapshot` before it nothing happens.
   */
  cancel(): void {
    this.#phase = "serving";
    for (const connection of this.#connections) connection.carryOn();
  }

  /**
   * Marks the connection behind `socket` as belonging to `generation`, so that the restore to that
   * generation spares it. Call it for a request that has proved to come from after the restore: it
   * is authenticated and carries the generation. The connection is kept alive from now on.
   *
   * Any socket Node hands out will do: `request.socket` of HTTP/1 and HTTP/2, or
   * `stream.session.socket`. Safe to repeat.
   * @returns whether the connection is tracked and open.
   * @throws StaleGenerationError when `generation` is below the tracker's.
   * @throws RangeError when `generation` is not a whole number from 0 up.
   */
  adopt(socket: Socket, generation: number): boolean {
    checkGeneration(generation, this.#generation);
    const connection = this.#watch.find(socket);
    if (connection === undefined || connection.state === "closed") return false;
    connection.generation = Math.max(connection.generation, generation);
    if (!this.#isDraining(connection)) connection.carryOn();
    return true;
  }

  /** The open connections as they are now, oldest first. */
  connections(): readonly ConnectionInfo[] {
    return Array.from(this.#connections, (connection) => connection.info()).filter(
      ({ state }) => state !== "closed",
    );
  }

  /** How many connections are in each state now; `closed` counts all since the tracker was attached. */
  counts(): Readonly<Record<ConnectionState, number>> {
    const counts = { new: 0, active: 0, idle: 0, upgraded: 0, closed: this.#goneCount };
    for (const { state } of this.#connections) counts[state] += 1;
    return counts;
  }

  /** Cancels a preparation and removes every listener. The connections stay open. Safe to repeat. */
  detach(): void {
    this.cancel();
    this.#watch.stop();
    this.#oldInQueue = 0;
    for (const connection of this.#connections) connection.release();
    this.#connections.clear();
  }

  [Symbol.dispose](): void {
    this.detach();
  }

  #accept(socket: Socket): Connection {
    const connection = new Connection(socket, {
      generation: this.#generation,
      encrypted: this.#encrypted || socket instanceof TLSSocket,
      closings: this.#closings,
      isDraining: (asking) => this.#isDraining(asking),
      onGone: (gone) => this.#forget(gone),
    });
    this.#connections.add(connection);
    // Node's own listeners come first, which want an open socket; nothing is read before the next turn.
    if (this.#takeFromQueue()) process.nextTick(() => connection.destroy());
    return connection;
  }

  /** One was accepted. Returns whether it is older than the last restore. */
  #takeFromQueue(): boolean {
    if (this.#oldInQueue === 0) return false;
    this.#oldInQueue -= 1;
    return true;
  }

  /** A connection that has proved newer than the snapshot is not held up by its preparation. */
  #isDraining(connection: Connection): boolean {
    return this.prepared && connection.generation <= this.#generation;
  }

  #forget(connection: Connection): void {
    this.#goneCount += 1;
    this.#connections.delete(connection);
  }
}
