import { upgradeWebSocket, type WebSocketServerLike } from "@hono/node-server";
import type { Hono } from "hono";
import { type ServerOptions, type WebSocket, WebSocketServer } from "ws";
import { MAX_FRAME_UP } from "../../shared/protocol/frames.ts";
import { SUBPROTOCOLS } from "../../shared/protocol/versions.ts";
import type { Env } from "../routes/define.ts";
import { route } from "../routes/define.ts";
import type { LinkHub } from "./hub.ts";

/** A host that does not read what it is sent is cut off rather than remembered. */
const MAX_BUFFERED_BYTES = 16 * 1024 * 1024;

const OPTIONS: ServerOptions = {
  noServer: true,
  maxPayload: MAX_FRAME_UP,
  perMessageDeflate: false,
  // The hub knows its links; listeners of its own the server would lose.
  clientTracking: false,
  handleProtocols: (offered) => SUBPROTOCOLS.find((known) => offered.has(known)) ?? false,
};

/** The WebSocket server to hand to `serve`. */
export function linkServer(): WebSocketServerLike {
  // The same thing: only the two packages' types disagree on an absent option.
  return new WebSocketServer(OPTIONS) as unknown as WebSocketServerLike;
}

/** The agents' way in, on Node: `/agent/link` becomes a session of the hub. */
export function mountLink(app: Hono<Env>, hub: LinkHub): void {
  app.get(
    "/agent/link",
    route({ access: "public", summary: "The agents' WebSocket (sub-protocol trunkline.v1)" }),
    upgradeWebSocket(() => {
      let handle: ReturnType<LinkHub["accept"]> | undefined;
      return {
        onOpen(_event, ws) {
          const raw = ws.raw as WebSocket;
          if (!(SUBPROTOCOLS as readonly string[]).includes(raw.protocol))
            return raw.close(1002, `sub-protocol ${SUBPROTOCOLS.join(" or ")} needed`);
          handle = hub.accept({
            send(text) {
              if (raw.readyState !== raw.OPEN) return;
              if (raw.bufferedAmount > MAX_BUFFERED_BYTES) raw.terminate();
              else raw.send(text);
            },
            close(code, reason) {
              raw.close(code, reason);
              // A host that never answers the close would hold the socket for ever.
              setTimeout(() => raw.terminate(), 2_000).unref();
            },
          });
          // Straight from the socket, once what came before it opened is delivered: the events made of each frame cost more than
          // reading it, and their handlers hold the request that opened the socket for as long as it lives.
          queueMicrotask(() => {
            for (const event of ["message", "close", "error"]) raw.removeAllListeners(event);
            raw.on("message", (data, isBinary) => handle?.message(isBinary ? "" : String(data)));
            raw.on("close", () => handle?.closed());
            raw.on("error", () => handle?.closed());
          });
        },
        onMessage(event) {
          // Frames are text; a binary one is given to the parser as what it is not.
          handle?.message(typeof event.data === "string" ? event.data : "");
        },
        onClose: () => handle?.closed(),
        onError: () => handle?.closed(),
      };
    }),
  );
}
