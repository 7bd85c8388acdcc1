import { z } from "zod";
import { idSchema } from "../../shared/ids.ts";

/** Every kind of job and its payload, checked when it is read back. */
export const JOB_PAYLOADS = {
  "order.timeout": z.object({ orderId: idSchema("ord") }),
  "order.fulfil": z.object({ orderId: idSchema("ord") }),
  "line.provision": z.object({ lineId: idSchema("lin") }),
  "resource.expire": z.object({ resourceId: idSchema("res") }),
  "capture.deadline": z.object({ captureId: idSchema("cap") }),
  "retention.sweep": z.object({}),
  "capture.expire": z.object({ captureId: idSchema("cap") }),
  "rollout.step": z.object({ rolloutId: idSchema("rol") }),
} as const;

export type JobKind = keyof typeof JOB_PAYLOADS;
export type JobPayload<K extends JobKind> = z.infer<(typeof JOB_PAYLOADS)[K]>;
