import type { connect } from "node:net";
import { WebSocket } from "ws";
import type { LinkWay } from "../../shared/protocol/desired-state.ts";
import { type AgentFrame, MAX_FRAME_DOWN, MAX_FRAME_UP } from "../../shared/protocol/frames.ts";
import { SUBPROTOCOLS } from "../../shared/protocol/versions.ts";
import { type Log, sentence } from "../log.ts";
import { parseRetryAfter } from "./backoff.ts";
import { dial } from "./dial.ts";
import type { LinkSession } from "./session.ts";
import type { Now, SessionAction, SessionInput } from "./session-types.ts";

/** From the first packet to the upgraded connection. */
const HANDSHAKE_MS = 15_000;
/** Bytes waiting in the socket above which observations and task events are dropped rather than queued. */
const MOST_BUFFERED = 4 * 1024 * 1024;

export interface LinkShellDeps {
  session: LinkSession;
  log: Log;
  now(): Now;
  /** Does every action that is not about the socket. Throws when a durable one failed; the link is then closed. */
  perform(action: SessionAction): void;
}

/** Runs a {@link LinkSession} on real sockets and one timer. */
export class LinkShell {
  readonly #deps: LinkShellDeps;
  #socket: WebSocket | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** Monotonic ms of the last turn of this loop, for the watchdog. */
  aliveAt = 0;
  dropped = 0;

  constructor(deps: LinkShellDeps) {
    this.#deps = deps;
  }

  start(): void {
    this.input({ type: "start" });
  }

  stop(): void {
    this.input({ type: "stop" });
    clearTimeout(this.#timer);
  }

  input(input: SessionInput): void {
    const { session, now, log } = this.#deps;
    this.aliveAt = now().mono;
    let queue = session.handle(input, now());
    for (let i = 0; i < queue.length; i++) {
      const action = queue[i] as SessionAction;
      try {
        this.#do(action);
      } catch (error) {
        log.error("an action of the link failed", { action: action.type, why: sentence(error) });
        this.#drop(1011, "internal error");
        queue = session.handle({ type: "closed", why: sentence(error) }, now());
        i = -1;
      }
    }
    this.#arm();
  }

  #do(action: SessionAction): void {
    switch (action.type) {
      case "connect":
        this.#connect(action.endpoint, action.via);
        break;
      case "probe":
        this.#probe(action.endpoint);
        break;
      case "close":
        this.#deps.log.info("link closed by us", { code: action.code, reason: action.reason });
        this.#drop(action.code, action.reason);
        break;
      case "send":
        this.#send(action.frame);
        break;
      case "note":
        this.#deps.log.info("link", { note: action.message });
        break;
      default:
        this.#deps.perform(action);
    }
  }

  #connect(endpoint: string, via: LinkWay | undefined): void {
    const url = linkUrl(endpoint);
    const socket = open(url, via);
    this.#socket = socket;
    // Inputs of a socket we gave up are not passed on.
    const on = (input: SessionInput) => {
      if (this.#socket !== socket) return;
      if (input.type === "closed") this.#socket = undefined;
      this.input(input);
    };
    socket.on("open", () => on({ type: "opened" }));
    socket.on("message", (data, isBinary) => on(isBinary ? { type: "binary" } : { type: "text", text: String(data) }));
    socket.on("unexpected-response", (_request, response) => {
      const retryAfterMs = parseRetryAfter(response.headers["retry-after"], this.#deps.now().wall);
      response.resume();
      on({ type: "closed", why: `${url} answered HTTP ${response.statusCode}`, retryAfterMs });
      socket.terminate();
    });
    socket.on("error", (error) => {
      on({ type: "closed", why: `${url}: ${sentence(error) || (error as NodeJS.ErrnoException).code}` });
      socket.terminate();
    });
    socket.on("close", (code, reason) => on({ type: "closed", why: `closed with ${code} ${reason}` }));
  }

  /** A control plane that greets is one that can be reached; it is left before it is told who asks. */
  #probe(endpoint: string): void {
    const socket = open(linkUrl(endpoint), undefined);
    let told = false;
    const tell = (ok: boolean) => {
      if (told) return;
      told = true;
      clearTimeout(late);
      socket.terminate();
      this.input({ type: "probed", ok });
    };
    const late = setTimeout(() => tell(false), HANDSHAKE_MS);
    late.unref();
    socket.on("message", () => tell(true));
    for (const event of ["error", "close", "unexpected-response"]) socket.on(event, () => tell(false));
  }

  #drop(code: number, reason: string): void {
    const socket = this.#socket;
    this.#socket = undefined;
    if (!socket) return;
    if (socket.readyState !== WebSocket.OPEN) {
      socket.terminate();
      return;
    }
    socket.close(code, reason);
    // A black hole never answers the close: don't keep its socket.
    setTimeout(() => socket.terminate(), 2000).unref();
  }

  #send(frame: AgentFrame): void {
    const socket = this.#socket;
    if (socket?.readyState !== WebSocket.OPEN) return;
    const mayDrop = frame.t === "observe" || frame.t === "task.event";
    const text = frameText(frame);
    if (text === undefined || (mayDrop && socket.bufferedAmount > MOST_BUFFERED)) {
      this.dropped += 1;
      return;
    }
    socket.send(text);
  }

  #arm(): void {
    clearTimeout(this.#timer);
    const at = this.#deps.session.nextWake();
    if (at === undefined) return;
    // At least once in 5 s even when nothing is due, so that the watchdog sees the loop turn.
    const inMs = Math.min(5000, Math.max(0, at - this.#deps.now().mono));
    this.#timer = setTimeout(() => this.input({ type: "tick" }), inMs);
  }
}

function linkUrl(endpoint: string): string {
  return `${endpoint.replace(/^http/, "ws").replace(/\/+$/, "")}/agent/link`;
}

/** A socket to that URL; through another host the connection goes there, and the name and the certificate stay the URL's. */
function open(url: string, via: LinkWay | undefined): WebSocket {
  return new WebSocket(url, [...SUBPROTOCOLS], {
    perMessageDeflate: false,
    maxPayload: MAX_FRAME_DOWN,
    handshakeTimeout: HANDSHAKE_MS,
    followRedirects: false,
    createConnection: (() => dial({ url, via }).setTimeout(HANDSHAKE_MS)) as typeof connect,
  });
}

/**
 * A frame's text within the limit. A long ack keeps its failures and as many successes as fit; anything else that is
 * too long is not sent.
 */
export function frameText(frame: AgentFrame): string | undefined {
  const text = JSON.stringify(frame);
  if (Buffer.byteLength(text) <= MAX_FRAME_UP) return text;
  if (frame.t !== "ack") return undefined;
  const ranked = [...frame.results].sort((a, b) => Number(a.ok) - Number(b.ok));
  for (let keep = ranked.length; keep >= 1; keep = Math.floor(keep / 2)) {
    const shorter = JSON.stringify({ ...frame, results: ranked.slice(0, keep) });
    if (Buffer.byteLength(shorter) <= MAX_FRAME_UP) return shorter;
  }
  return undefined;
}
