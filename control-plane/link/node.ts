import { upgradeWebSocket, type WebSocketServerLike } from "@hono/node-server";
import type { Hono } from "hono";
import type { WSEvents } from "hono/ws";
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
      const events: WSEvents = {
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
          // Straight from the socket, once what came before it opened is delivered: the event made of each frame costs more
          // than reading the frame.
          queueMicrotask(() => {
            delete events.onMessage;
            raw.on("message", (data, isBinary) => handle?.message(isBinary ? "" : String(data)));
          });
        },
        onMessage(event) {
          // Frames are text; a binary one is given to the parser as what it is not.
          handle?.message(typeof event.data === "string" ? event.data : "");
        },
        onClose: () => handle?.closed(),
        onError: () => handle?.closed(),
      };
      return events;
    }),
  );
}
