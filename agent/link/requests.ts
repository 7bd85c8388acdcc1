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

  constructor(way: () => Endpoint) {
    this.#way = way;
  }

  /**
   * Resolves with the answer when its headers are there; the caller reads the body, or drops it by `resume()`. Throws when there
   * is no answer.
   */
  async send(path: string, { method = "GET", headers, body, signal }: RequestOptions): Promise<IncomingMessage> {
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
    const [answer] = (await once(sent, "response")) as [IncomingMessage];
    return answer.on("error", ignore);
  }

  /** Lets the connections go. */
  close(): void {
    this.#connections?.destroy();
    this.#connections = undefined;
  }

  #by(way: Endpoint): Agent {
    const now = JSON.stringify(way);
    if (this.#connections !== undefined && this.#used === now) return this.#connections;
    this.close();
    this.#used = now;
    this.#connections = new (class extends Agent {
      override createConnection() {
        return dial(way);
      }
    })({ keepAlive: true, maxSockets: 1 });
    return this.#connections;
  }
}
