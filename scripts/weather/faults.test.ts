import { eq, sql } from "drizzle-orm";
import { expect, test } from "vitest";
import * as t from "../../control-plane/db/schema/index.ts";
import { openConnection } from "../../control-plane/services/connections/open.ts";
import { desiredState } from "../../control-plane/services/hosts/desired-state.ts";
import { note } from "../../control-plane/testing/note.ts";
import { toBase64 } from "../../shared/canonical.ts";
import { kernelOf } from "./model-driver.ts";
import type { ModelHost } from "./model-host.ts";
import { sharedOrigin } from "./shared-origin.ts";
import { World } from "./world.ts";

const MINUTE_MS = 60_000;
const DAY_MS = 86_400_000;

const origin = sharedOrigin();

/** A world at rest, its two lines open. */
async function inWorld(seed: number, body: (world: World) => Promise<void>): Promise<void> {
  const world = await World.open(origin(), seed);
  try {
    world.calm();
    await rests(world);
    for (const lineId of world.lineIds())
      world.call("open", async (customer) => {
        const clientPublicKey = toBase64(new Uint8Array(32).map(() => Math.floor(world.random() * 256)));
        await openConnection(customer, { lineId, clientPublicKey }, 0);
      });
    await world.time.advance(2000);
    await rests(world);
    expect(world.done.open).toBe(2);
    await body(world);
    expect(world.faults).toEqual([]);
  } finally {
    await world.close();
  }
}

async function rests(world: World, mostMs = 4 * MINUTE_MS): Promise<number> {
  const { waited, left } = await world.rest(mostMs);
  expect(left).toEqual([]);
  return waited;
}

test("control plane away for an hour, every host rebooted meanwhile: kernels stand as they should, an ended line stops on time", () =>
  inWorld(1, async (world) => {
    const { plane, time, hosts } = world;
    const [lineId] = world.lineIds();
    const endsAt = time.wall() + 30 * MINUTE_MS + 4567;
    await plane.db.write(async (tx) => {
      const [line] = await tx
        .select()
        .from(t.lines)
        .where(eq(t.lines.id, lineId ?? "lin_"));
      if (line?.exitHostId == null) throw new Error("no line");
      await tx.update(t.resources).set({ endsAt }).where(eq(t.resources.id, line.resourceId));
      await tx.update(t.hosts).set({ desiredRev: sql`desired_rev + 1` }).where(eq(t.hosts.id, line.exitHostId));
    });
    await time.advance(6000);
    await rests(world);
    const states = new Map<ModelHost, Awaited<ReturnType<typeof desiredState>>>();
    for (const host of hosts) states.set(host, await desiredState(plane.db.read, host.setup.id));
    const peersBefore = hosts.flatMap((host) => [...host.kernel.keys()]).filter((key) => key.startsWith("peer"));
    expect(peersBefore).toHaveLength(2);

    plane.kill();
    let looks = 0;
    let wrong = 0;
    let lateMs = 0;
    const downUntil = new Map<ModelHost, number>();
    for (let second = 1; second <= 3600; second++) {
      // Each once in the first half, each once in the second.
      const host = second % 250 === 0 ? hosts[(second / 250 - 1) % hosts.length] : undefined;
      if (host !== undefined) {
        host.reboot();
        // Twenty seconds to boot, and as many passes as it takes.
        downUntil.set(host, time.wall() + 25_000);
      }
      await time.advance(1000);
      for (const one of hosts) {
        if ((downUntil.get(one) ?? 0) > time.wall()) continue;
        looks++;
        const wanted = [...kernelOf(states.get(one)?.items ?? [], time.wall())].sort();
        if (JSON.stringify(wanted) === JSON.stringify([...one.kernel].sort())) continue;
        // Only an end that has just come may be a moment late.
        if (time.wall() - endsAt < 2000 && time.wall() >= endsAt) lateMs = Math.max(lateMs, time.wall() - endsAt);
        else wrong++;
      }
    }
    note(
      `control plane away for an hour: ${looks} looks at ${hosts.length} hosts, each rebooted twice, ${wrong} wrong; ` +
        `the ended line stopped within ${lateMs + 1000} ms`,
    );
    expect(wrong).toBe(0);
    const peers = hosts.flatMap((host) => [...host.kernel.keys()]).filter((key) => key.startsWith("peer"));
    expect(peers).toHaveLength(1);
    plane.start();
    const waited = await rests(world);
    note(`control plane away for an hour: all in agreement ${waited / 1000} s after its return`);
  }));

test("a link that swallows everything, or one direction, is noticed by both sides in 40 s, shown, and comes back by itself", async () => {
  for (const weather of ["hole", "deaf", "mute"] as const)
    await inWorld(2, async (world) => {
      const host = world.hosts[1] as ModelHost;
      const stateOf = async () =>
        (await world.plane.db.read.select().from(t.hosts).where(eq(t.hosts.id, host.setup.id)))[0]?.state;
      const before = [...host.kernel];
      host.setup.wire.weather = weather;
      let agentAfter = 0;
      let planeAfter = 0;
      for (let second = 1; second <= 60; second++) {
        await world.time.advance(1000);
        if (agentAfter === 0 && host.agent?.session.phase !== "linked") agentAfter = second;
        if (planeAfter === 0 && world.plane.hub?.isLinked(host.setup.id) === false) planeAfter = second;
      }
      expect(await stateOf()).toBe("offline");
      expect([...host.kernel]).toEqual(before);
      host.setup.wire.weather = "fair";
      const waited = await rests(world, 2 * MINUTE_MS);
      note(
        `black-holed link (${weather}): agent noticed after ${agentAfter || "–"} s, control plane after ${planeAfter || "–"} s; ` +
          `back ${waited / 1000} s after it ended`,
      );
      // Who still hears the other has no silence to notice; it hears of the end by its close.
      for (const after of [agentAfter, planeAfter]) expect(after).toBeLessThanOrEqual(41);
      expect(Math.max(agentAfter, planeAfter)).toBeGreaterThan(0);
      if (weather === "hole") expect(Math.min(agentAfter, planeAfter)).toBeGreaterThan(0);
    });
});

test("one identity on two machines raises an alarm within a minute; when the copy is gone the host is served as before", () =>
  inWorld(3, async (world) => {
    const host = world.hosts[1] as ModelHost;
    world.clone(host);
    const cloned = async () => (await world.eventsOf(host)).some((event) => event.kind === "identity_cloned");
    let alarmAfter = 0;
    for (let second = 1; second <= 120 && alarmAfter === 0; second++) {
      await world.time.advance(1000);
      if (await cloned()) alarmAfter = second;
    }
    for (const clone of world.clones) clone.kill();
    const waited = await rests(world);
    note(`cloned identity: alarm after ${alarmAfter} s, at rest ${waited / 1000} s after the copy was gone`);
    expect(alarmAfter).toBeGreaterThan(0);
    expect(alarmAfter).toBeLessThanOrEqual(60);
  }));

test("clocks a day off, a host's or the control plane's, either way: reported, and everything goes on", async () => {
  for (const days of [-1, 1])
    for (const whose of ["host", "control plane"] as const)
      await inWorld(4, async (world) => {
        const { plane, hosts } = world;
        if (whose === "host") for (const host of hosts.slice(0, 3)) host.skewMs = days * DAY_MS;
        else {
          plane.kill();
          plane.skewMs = days * DAY_MS;
        }
        // Each begins a new session, and is looked at as it is then.
        for (const host of hosts) host.kill();
        await world.time.advance(1000);
        world.calm();
        await world.time.advance(2000);
        const waited = await rests(world);
        const reported = await Promise.all(
          hosts.map(async (host) => (await world.eventsOf(host)).filter((event) => event.kind === "clock_skew").length),
        );
        expect(reported).toEqual(hosts.map((_, n) => (whose === "host" && n >= 3 ? 0 : 1)));
        note(`clock skew: ${whose} ${days} day, in agreement after ${2 + waited / 1000} s, reported of ${reported}`);
      });
});
