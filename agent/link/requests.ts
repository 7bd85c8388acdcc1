import { once } from "node:events";
import { Agent, type IncomingMessage, type OutgoingHttpHeaders, request } from "node:http";
import { dial } from "./dial.ts";
import type { Endpoint } from "./endpoints.ts";

export interface RequestOptions {
  method?: "GET" | "HEAD" | "PUT";
  headers?: OutgoingHttpHeaders;
  body?: Uint8Array;
  /** Ends the request, and the reading of its answer. */
  signal: AbortSignal;
}

/**
 * HTTP requests to the control plane by the way that the link has, directly or through another host, asked anew for each. A
 * connection serves one request after the other for as long as the way stays the same. No redirect is followed.
 */
export class Requests {
  readonly #way: () => Endpoint;
  #used = "";
  #connections: Agent | undefined;
  #closed = false;

  constructor(way: () => Endpoint) {
    this.#way = way;
  }

  /**
   * Resolves with the answer when its headers are there; the caller reads the body, or drops it by `resume()`. Throws when there
   * is no answer, and after {@link close}.
   */
  async send(path: string, { method = "GET", headers, body, signal }: RequestOptions): Promise<IncomingMessage> {
    if (this.#closed) throw new Error("no request is sent any more");
    const way = this.#way();
    const url = new URL(`${way.url.replace(/\/+$/, "")}${path}`);
    const length = body === undefined ? {} : { "content-length": body.length };
    const sent = request({
      method,
      ...{ host: url.hostname, path: `${url.pathname}${url.search}`, agent: this.#by(way), signal },
      headers: { ...headers, ...length, host: url.host },
    });
    // Whoever waits or reads sees it too; when nobody does, an answer that breaks off is not the agent's end.
    const ignore = () => {};
    sent.on("error", ignore).end(body);
    // An answer that is none (`101 Switching Protocols`) is told as neither; and the signal ends the wait whatever is told.
    const none = new AbortController();
    sent.on("close", () => none.abort(new Error("the connection was closed without an answer")));
    sent.on("upgrade", (_, socket) => socket.destroy());
    const either = AbortSignal.any([signal, none.signal]);
    const [answer] = (await once(sent, "response", { signal: either }).catch((error: unknown) => {
      throw either.aborted ? either.reason : error;
    })) as [IncomingMessage];
    return answer.on("error", ignore);
  }

  /** Lets the connections go; there are no further ones. */
  close(): void {
    this.#closed = true;
    this.#drop();
  }

  #drop(): void {
    this.#connections?.destroy();
    this.#connections = undefined;
  }

  #by(way: Endpoint): Agent {
    const now = JSON.stringify(way);
    if (this.#connections !== undefined && this.#used === now) return this.#connections;
    this.#drop();
    this.#used = now;
    this.#connections = new (class extends Agent {
      override createConnection() {
        return dial(way);
      }
    })({ keepAlive: true, maxSockets: 1 });
    return this.#connections;
  }
}
