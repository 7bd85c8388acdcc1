import { expect, test } from "vitest";
import type { ModelHost } from "./model-host.ts";
import { sharedOrigin } from "./shared-origin.ts";
import { World } from "./world.ts";

/** Histories that the random sequences once ended badly with, each shrunk to what it was about. */

const origin = sharedOrigin();

async function inWorld(seed: number, body: (world: World) => Promise<void>): Promise<void> {
  const world = await World.open(origin(), seed);
  try {
    world.calm();
    await body(world);
    expect(await world.rest(240_000)).toMatchObject({ left: [], faults: [] });
  } finally {
    await world.close();
  }
}

test("a way goes down at any moment of a hello: a host welcomed on a dying connection has one session when it is back", () =>
  inWorld(485408088, async (world) => {
    const host = world.hosts[2] as ModelHost;
    for (let ms = 0; ms < 400; ms += 8) {
      host.kill();
      await world.time.advance(500);
      host.start();
      await world.time.advance(ms);
      host.setup.wire.weather = "down";
      await world.time.advance(500);
      host.setup.wire.weather = "fair";
    }
  }));

test("two hellos of one host are checked at once, and the newer one's answer is there first: the newer session stays", () =>
  inWorld(1, async (world) => {
    const host = world.hosts[2] as ModelHost;
    world.clone(host);
    const [clone] = world.clones as [ModelHost];
    for (let n = 0; n < 100; n++) {
      host.kill();
      clone.kill();
      await world.time.advance(500);
      host.start();
      await world.time.advance(n);
      clone.start();
      await world.time.advance(500);
    }
    clone.kill();
  }));
