import { eq } from "drizzle-orm";
import { expect, test } from "vitest";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { makeHarness } from "../../testing/harness.ts";
import { makePerson, networkWithLines } from "../../testing/world.ts";
import { makeId } from "../context.ts";
import { stopCapture } from "./read.ts";

test("a capture that is stopped twice, the exit's part at its end by then, keeps what it has: the part that takes its bytes goes on", async () => {
  const h = await makeHarness();
  const { network, lineId } = await networkWithLines(h);
  const support = await makePerson(h, "support", "support");
  const [exit] = network.exits as [Id<"hst">];
  const [forward] = network.forwards as [Id<"hst">];
  const now = h.clock.now();
  const id = makeId(h.ports, "cap");
  const task = (hostId: Id<"hst">, kind: string) => ({
    id: makeId(h.ports, "tsk"),
    hostId,
    kind,
    subject: id,
    state: "sent" as const,
    deadlineAt: now + 60_000,
    events: [],
    createdAt: now,
  });
  const [capturing, receiving] = [task(exit, "capture"), task(forward, "capture.receive")];
  await h.ports.db.write(async (tx) => {
    await tx.insert(t.captures).values({
      id,
      lineId,
      hostId: exit,
      forwardHostId: forward,
      point: "tunnel",
      filter: "",
      reason: "for the test",
      seconds: 60,
      maxBytes: 1000,
      snapLength: 100,
      state: "running",
      uploadTokenHash: "hash",
      requestedBy: support.id,
      createdAt: now,
      deleteAt: now + 86_400_000,
    });
    await tx.insert(t.tasks).values([capturing, receiving]);
  });
  const cancelled = async () =>
    new Map((await h.ports.db.read.select().from(t.tasks)).map((row) => [row.kind, row.cancelledAt !== null]));
  await stopCapture(support.ctx, id);
  expect(await cancelled()).toEqual(
    new Map([
      ["capture", true],
      ["capture.receive", false],
    ]),
  );
  await h.ports.db.write((tx) =>
    tx.update(t.tasks).set({ state: "ended", endedAt: now }).where(eq(t.tasks.id, capturing.id)),
  );
  await stopCapture(support.ctx, id);
  expect((await cancelled()).get("capture.receive")).toBe(false);
});
