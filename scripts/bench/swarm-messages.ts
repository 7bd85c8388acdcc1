/** What the swarm's processes say to each other over node's IPC. */

/** A server under load, ours or the bare one. */
export type ServerCommand =
  | { do: "stats"; id: number }
  /** Sends so many changes a second for so long, each to another host. */
  | { do: "changes"; id: number; rate: number; seconds: number }
  /** Opens and closes so many connections (ours only). */
  | { do: "opens"; id: number; count: number }
  | { do: "resetLag"; id: number };

export interface ServerStats {
  rssBytes: number;
  cpuSeconds: number;
  /** Hosts that are joined (bare: sockets that are open). */
  joined: number;
  /** Links opened so far, and those closed because a newer one of the same host came. */
  opened: number;
  superseded: number;
  /** How late timers fired since the last reset, ms. */
  lagP99Ms: number;
  lagMaxMs: number;
}

export interface ChangesResult {
  /** What was really done, a second. */
  changesPerSecond: number;
  /** From the state going out to its ack being stored, ms. */
  pushToAckMs: number[];
  /** From asking for the change to its ack being stored, of a sample, ms. */
  changeToAckMs: number[];
  cpuSeconds: number;
  seconds: number;
}

export interface OpensResult {
  /** From asking for a connection to the answer, which waits for no host, ms. */
  openMs: number[];
  /** Of opening and closing them all. */
  cpuSeconds: number;
}

/** A process that plays hosts. */
export type AgentsCommand =
  | { do: "connect"; id: number; url: string; from: number; to: number; localAddress: string; bare: boolean }
  | { do: "status"; id: number; rev: number };

export interface AgentsStatus {
  /** Hosts that are linked: welcomed on a socket that is open. */
  linked: number;
  /** Of those, the ones that have acknowledged this revision or a later one. */
  held: number;
  /** Sockets open now; more than one a host would be a leak. */
  sockets: number;
  /** Attempts that failed since the start. */
  failed: number;
  /** CPU that playing the hosts took so far. */
  cpuSeconds: number;
}

export type Answer = { id: number; result?: unknown; error?: string } | { ready: true; url: string };
export const SUB_PROTOCOL_BARE = "bench.bare";
