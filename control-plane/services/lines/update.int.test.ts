import { eq } from "drizzle-orm";
import { expect, test } from "vitest";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import { type Harness, makeHarness } from "../../testing/harness.ts";
import { buyLines, key32, makeCustomer, makeNetwork, makePerson, stockCatalogue } from "../../testing/world.ts";
import { readConfiguration } from "../connections/configuration.ts";
import { openConnection } from "../connections/open.ts";
import { desiredState } from "../hosts/desired-state.ts";

async function exitOf(h: Harness, lineId: Id<"lin">) {
  const [line] = await h.ports.db.read.select().from(t.lines).where(eq(t.lines.id, lineId));
  const state = await desiredState(h.ports.db.read, line?.exitHostId ?? "hst_");
  const tunnel = state?.items.find((item) => item.type === "wireguard");
  return { rev: state?.rev ?? -1, mtu: tunnel?.mtu };
}

test("a line's MTU reaches its exit and its client's configuration in every form, set by its owner or by operators only", async () => {
  const h = await makeHarness();
  await stockCatalogue(h);
  await makeNetwork(h, { forwards: 1, exits: 1, ports: 5 });
  const owner = await makeCustomer(h, "owner");
  const stranger = await makeCustomer(h, "stranger");
  const support = await makePerson(h, "support", "support");
  const [lineId] = (await buyLines(h, owner)) as [Id<"lin">];
  const connection = await openConnection(owner.ctx, { lineId, clientPublicKey: key32(h) }, 0);
  const before = await exitOf(h, lineId);
  expect(before.mtu).toBe(1392);
  const usual = await readConfiguration(owner.ctx, connection.id);
  expect(usual.conf).toContain("MTU = 1392");

  const set = (who: { auth: Record<string, string> }, mtu: unknown) =>
    h.request<{ mtu: number; code: string }>("PATCH", `/lines/${lineId}`, { mtu }, { headers: who.auth });
  expect((await set(stranger, 1300)).status).toBe(404);
  for (const bad of [1279, 1421, 1300.5, "1300"]) expect((await set(owner, bad)).body.code).toBe("validation_failed");
  expect(await exitOf(h, lineId)).toEqual(before);

  expect((await set(owner, 1280)).body.mtu).toBe(1280);
  expect(await exitOf(h, lineId)).toEqual({ rev: before.rev + 1, mtu: 1280 });
  const narrow = await readConfiguration(owner.ctx, connection.id);
  expect(narrow.configuration.mtu).toBe(1280);
  expect(narrow.conf).toContain("MTU = 1280");
  expect(narrow.qrSvg).not.toBe(usual.qrSvg);
  // The same again is no change, and null is the usual one.
  await set(support, 1280);
  expect(await exitOf(h, lineId)).toEqual({ rev: before.rev + 1, mtu: 1280 });
  expect((await set(support, null)).body.mtu).toBe(1392);
  expect(await exitOf(h, lineId)).toEqual({ rev: before.rev + 2, mtu: 1392 });
  const audited = await h.ports.db.read.select().from(t.auditLog).where(eq(t.auditLog.action, "line.update"));
  expect(audited.map(({ before, after }) => [before, after])).toEqual([
    [{ mtu: null }, { mtu: 1280 }],
    [{ mtu: 1280 }, { mtu: null }],
  ]);
});
