import { Redis } from "ioredis";
import { z } from "zod";
import { idSchema } from "../../../shared/ids.ts";
import type { Bus, BusMessage, Log } from "../../ports/index.ts";

/** One channel for all: messages are small and every process wants them. */
const CHANNEL = "trunkline.bus.v1";

const messageSchema = z.discriminatedUnion("t", [
  z.object({ t: z.literal("wake"), hostIds: z.array(idSchema("hst")).max(10_000) }),
  z.object({
    t: z.literal("applied"),
    hostId: idSchema("hst"),
    rev: z.number().int(),
    failed: z.array(z.string().max(64)).max(10_000),
  }),
  z.object({ t: z.literal("joined"), hostId: idSchema("hst"), epoch: z.number().int() }),
  z.object({ t: z.literal("tasks"), hostIds: z.array(idSchema("hst")).max(10_000) }),
  z.object({ t: z.literal("task.event"), id: idSchema("tsk"), seq: z.number().int(), data: z.unknown() }),
  z.object({ t: z.literal("task.end"), id: idSchema("tsk") }),
]);
const envelopeSchema = z.object({ from: z.string(), message: messageSchema });

/**
 * Wake-ups between processes over Redis publish and subscribe. Nothing is kept there: what is lost while Redis is away or
 * emptied is found again by the sweeps. A process does not hear itself.
 *
 * @param url redis://…
 * @param self this process's name on the bus
 */
export function redisBus(url: string, self: string, log: Log): Bus {
  const options = { lazyConnect: false, maxRetriesPerRequest: null, enableOfflineQueue: false } as const;
  const publisher = new Redis(url, options);
  const subscriber = new Redis(url, { ...options, enableOfflineQueue: true });
  const handlers = new Set<(message: BusMessage) => void>();
  let complained = false;
  const complain = (error: unknown) => {
    // ioredis tries again for ever; one line a failure would drown the log.
    if (!complained) log.warn("bus is away", { error });
    complained = true;
  };
  for (const client of [publisher, subscriber]) {
    client.on("error", complain);
    client.on("ready", () => {
      if (complained) log.info("bus is back");
      complained = false;
    });
  }
  subscriber.subscribe(CHANNEL).catch(complain);
  subscriber.on("message", (_channel: string, text: string) => {
    const envelope = parse(text);
    if (envelope === undefined || envelope.from === self) return;
    for (const handler of handlers) handler(envelope.message);
  });

  return {
    publish(message) {
      if (publisher.status !== "ready") return;
      publisher.publish(CHANNEL, JSON.stringify({ from: self, message })).catch(complain);
    },
    subscribe(handler) {
      handlers.add(handler);
    },
    async close() {
      publisher.disconnect();
      subscriber.disconnect();
    },
  };
}

function parse(text: string): z.infer<typeof envelopeSchema> | undefined {
  try {
    return envelopeSchema.parse(JSON.parse(text));
  } catch {
    // A newer release's message, or somebody else's: the sweeps do without it.
    return undefined;
  }
}
