import type { Log } from "../../ports/index.ts";

/** One JSON object a line: time, level, event, fields. Errors are written with their causes and stack. */
export function jsonLog(write: (line: string) => void, now: () => number): Log {
  const at = (level: string) => (event: string, fields?: Record<string, unknown>) => {
    write(JSON.stringify({ at: new Date(now()).toISOString(), level, event, ...fields }, withErrors));
  };
  return { info: at("info"), warn: at("warn"), error: at("error") };
}

function withErrors(_key: string, value: unknown): unknown {
  if (value instanceof Error)
    return { name: value.name, message: value.message, stack: value.stack, cause: value.cause };
  if (typeof value === "bigint") return value.toString();
  return value;
}
