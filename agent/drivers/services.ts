import { basename } from "node:path";

/**
 * Programs that carry traffic or answer for it, and that must outlive the agent: each runs in a unit of its own under
 * systemd, and in a session of its own elsewhere. Deliberately not here: output, exit status, ordering. Whoever wants
 * one kept alive looks again at each pass.
 */
export interface ServiceSpec {
  /** Letters, digits, dash; unique on the host: `relay-40000`. */
  name: string;
  argv: readonly string[];
  /** What starts it in its own process, in front of the argv: `setpriv … --`. */
  via?: readonly string[];
}

export interface SeenService {
  name: string;
  /** Null: it is ours and does not run. */
  pid: number | null;
  /** What the process was really started with; empty when it does not run. */
  argv: readonly string[];
}

export interface Services {
  /** Those whose name begins with the prefix, running or not. */
  list(prefix: string): Promise<SeenService[]>;
  /** Starts one that does not run; resolves with its pid once the program itself runs. */
  start(spec: ServiceSpec): Promise<number>;
  /** Ends it and all it forked, at once, and forgets it. Nothing happens when there is none. */
  stop(name: string): Promise<void>;
}

/** True when a process runs what the argv says; systemd names the program by its path. */
export function sameArgv(real: readonly string[], wanted: readonly string[]): boolean {
  if (real.length !== wanted.length) return false;
  return real.every((arg, i) => arg === wanted[i] || (i === 0 && basename(arg) === basename(wanted[0] ?? "")));
}
