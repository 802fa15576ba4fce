/**
 * The output of a command in a sandbox, without a gap where the connection was cut: for use beside the
 * published E2B SDK, whose calls have no place for the header that asks for what was missed.
 *
 *     const output = new Output(sandbox, handle.pid);
 *     try {
 *       for await (const { stdout } of output.read()) process.stdout.write(stdout);
 *     } catch {
 *       await sandbox.connect(); // the sandbox was paused: wake it
 *       for await (const { stdout } of output.read()) process.stdout.write(stdout); // what was missed first
 *     }
 *
 * The sandbox keeps the last MiB of each command, until 30 s after its end. If what was missed is no longer
 * kept, `read` throws `out_of_range`. It needs the variable `E2B_SANDBOX_URL`, and no package.
 */
const agentPort = "49983";
const lastEnvelope = 2;
const envelopeHeadBytes = 5;
/** A command may be silent for long; its stream is not, so that fetch can tell a dead connection. */
const keepaliveSeconds = 20;

/** One piece of output; either stream may have none in it. */
export interface OutputPiece {
  readonly stdout: Buffer;
  readonly stderr: Buffer;
}

/** What the agent sends, in the JSON form of Connect. */
interface Message {
  readonly error?: { readonly code: string; readonly message?: string };
  readonly event?: {
    readonly data?: { readonly stdout?: string; readonly stderr?: string };
    readonly end?: { readonly exitCode?: number };
  };
}

/** A stream that ended before its command; `code` is Connect's, such as "unavailable". */
export class OutputError extends Error {
  readonly code: string;

  constructor(code: string, message: string) {
    super(`${code}: ${message}`);
    this.name = "OutputError";
    this.code = code;
  }
}

/** The output of one command, from its first byte on. */
export class Output {
  readonly #url: string;
  readonly #headers: Readonly<Record<string, string>>;
  readonly #pid: number;
  readonly #offsets = { stdout: 0, stderr: 0 };
  #exitCode: number | undefined;

  /** `sandbox` is a `Sandbox` of the SDK; its token is there at run time and not in its types. */
  constructor(
    sandbox: { readonly sandboxId: string },
    pid: number,
    sandboxUrl = process.env["E2B_SANDBOX_URL"],
  ) {
    const { envdAccessToken } = sandbox as { readonly envdAccessToken?: string };
    this.#url = `${sandboxUrl}/process.Process/Connect`;
    this.#pid = pid;
    this.#headers = {
      "content-type": "application/connect+json",
      "connect-protocol-version": "1",
      "keepalive-ping-interval": String(keepaliveSeconds),
      "e2b-sandbox-id": sandbox.sandboxId,
      "e2b-sandbox-port": agentPort,
      ...(envdAccessToken === undefined ? {} : { "x-access-token": envdAccessToken }),
    };
  }

  /** How many bytes of each stream have been read. */
  get offsets(): { readonly stdout: number; readonly stderr: number } {
    return { ...this.#offsets };
  }

  /** The command's exit code; undefined until `read` has come to its end. */
  get exitCode(): number | undefined {
    return this.#exitCode;
  }

  /**
   * Yields what the command prints until it ends. It may be called again after it threw: it continues
   * with the first byte that was not yielded.
   * @throws OutputError when the sandbox says why; fetch's own error when the connection breaks
   */
  async *read(): AsyncGenerator<OutputPiece> {
    const { stdout, stderr } = this.#offsets;
    const answer = await fetch(this.#url, {
      method: "POST",
      headers: { ...this.#headers, "torpor-output-offset": `${stdout},${stderr}` },
      body: envelope({ process: { pid: this.#pid } }),
    });
    if (!answer.ok || answer.body === null) {
      throw new OutputError(`http ${answer.status}`, await answer.text());
    }
    for await (const { isLast, message } of envelopes(answer.body)) {
      if (message.error !== undefined) {
        throw new OutputError(message.error.code, message.error.message ?? "");
      }
      if (isLast) return;
      const { data, end } = message.event ?? {};
      if (end !== undefined) this.#exitCode = end.exitCode ?? 0;
      if (data !== undefined) yield this.#count(data);
    }
    throw new OutputError("unavailable", "the stream was cut off");
  }

  #count(data: { readonly stdout?: string; readonly stderr?: string }): OutputPiece {
    const stdout = Buffer.from(data.stdout ?? "", "base64");
    const stderr = Buffer.from(data.stderr ?? "", "base64");
    this.#offsets.stdout += stdout.length;
    this.#offsets.stderr += stderr.length;
    return { stdout, stderr };
  }
}

function envelope(message: object): Uint8Array<ArrayBuffer> {
  const payload = new TextEncoder().encode(JSON.stringify(message));
  const whole = new Uint8Array(envelopeHeadBytes + payload.length);
  new DataView(whole.buffer).setUint32(1, payload.length);
  whole.set(payload, envelopeHeadBytes);
  return whole;
}

async function* envelopes(
  body: ReadableStream<Uint8Array>,
): AsyncGenerator<{ readonly isLast: boolean; readonly message: Message }> {
  let rest = Buffer.alloc(0);
  for await (const chunk of body) {
    rest = Buffer.concat([rest, chunk]);
    while (rest.length >= envelopeHeadBytes) {
      const end = envelopeHeadBytes + rest.readUInt32BE(1);
      if (rest.length < end) break;
      const message = JSON.parse(rest.toString("utf8", envelopeHeadBytes, end)) as Message;
      yield { isLast: (rest.readUInt8(0) & lastEnvelope) !== 0, message };
      rest = rest.subarray(end);
    }
  }
}
