import { deleteCapture } from "../services/captures/delete.ts";
import { failOverdueCapture } from "../services/captures/fail-overdue.ts";
import type { Context } from "../services/context.ts";
import { provisionLine } from "../services/lines/provision.ts";
import { expireOrder } from "../services/orders/expire.ts";
import { fulfilOrder } from "../services/orders/fulfil.ts";
import { expireResource } from "../services/resources/expire.ts";
import { SWEEP_EVERY_MS, SWEEP_ON_MS, sweep } from "../services/retention/sweep.ts";
import { stepRollout } from "../services/rollouts/step.ts";
import type { JobKind, JobPayload } from "./kinds.ts";

/** What a job came to: done, or not yet, to be run again after so long without counting as a failure. */
export type JobOutcome = "done" | { againInMs: number };

type Handler<K extends JobKind> = {
  run(ctx: Context, payload: JobPayload<K>): Promise<JobOutcome>;
  /** Failures after which it is a dead letter, or {@link FOR_EVER}. */
  maxAttempts: number;
};

/** Never given up, neither for its failures nor for workers that were gone before it ended. */
export const FOR_EVER = Number.POSITIVE_INFINITY;

const done = (): JobOutcome => "done";

/** What runs for each kind. Every handler may run more than once: the verb it calls decides by the database what is left to do. */
export const HANDLERS: { readonly [K in JobKind]: Handler<K> } = {
  "order.timeout": { run: (ctx, { orderId }) => expireOrder(ctx, orderId).then(done), maxAttempts: 20 },
  "order.fulfil": { run: (ctx, { orderId }) => fulfilOrder(ctx, orderId).then(done), maxAttempts: 20 },
  "line.provision": {
    async run(ctx, { lineId }) {
      const outcome = await provisionLine(ctx, lineId);
      if (outcome === "done" || outcome === "failed") return "done";
      // Woken early by the exit's acknowledgement; the poll is for what nobody announces.
      return { againInMs: Math.min(60_000, 500 * 2 ** Math.min(outcome.tries, 7)) };
    },
    maxAttempts: 20,
  },
  "resource.expire": {
    async run(ctx, { resourceId }) {
      const outcome = await expireResource(ctx, resourceId);
      return typeof outcome === "object" ? { againInMs: outcome.endsInMs } : "done";
    },
    maxAttempts: 100,
  },
  // One row, which comes again by itself: nobody would make another.
  "retention.sweep": {
    run: (ctx) => sweep(ctx).then((done) => ({ againInMs: done ? SWEEP_EVERY_MS : SWEEP_ON_MS })),
    maxAttempts: FOR_EVER,
  },
  "capture.deadline": { run: (ctx, { captureId }) => failOverdueCapture(ctx, captureId).then(done), maxAttempts: 20 },
  "capture.expire": { run: (ctx, { captureId }) => deleteCapture(ctx, captureId).then(done), maxAttempts: 20 },
  "rollout.step": { run: (ctx, { rolloutId }) => stepRollout(ctx, rolloutId), maxAttempts: 1000 },
};
