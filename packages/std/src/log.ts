/** A structured logger: one JSON object a line, with the fields of its parents. No global. */
export interface Logger {
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
  child(fields: LogFields): Logger;
}

/** Values that a log line carries beside its message; errors are written with their stack. */
export type LogFields = Readonly<Record<string, unknown>>;

/**
 * Makes a logger that gives `write` one line at a time, newline included; `base` is in every line.
 */
export function jsonLogger(write: (line: string) => void, base: LogFields = {}): Logger {
  const emit = (level: string, message: string, fields: LogFields = {}): void => {
    const entry = { time: new Date().toISOString(), level, message, ...base, ...fields };
    write(`${JSON.stringify(entry, errorAsText)}\n`);
  };
  return {
    info: (message, fields) => emit("info", message, fields),
    warn: (message, fields) => emit("warn", message, fields),
    error: (message, fields) => emit("error", message, fields),
    child: (fields) => jsonLogger(write, { ...base, ...fields }),
  };
}

/** A logger that keeps nothing. */
export const silentLogger: Logger = jsonLogger(() => undefined);

function errorAsText(_key: string, value: unknown): unknown {
  return value instanceof Error ? (value.stack ?? value.message) : value;
}
