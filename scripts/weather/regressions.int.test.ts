import { expect, test } from "vitest";
import type { ModelHost } from "./model-host.ts";
import { sharedOrigin } from "./shared-origin.ts";
import { World } from "./world.ts";

/** Histories that the random sequences once ended badly with, each shrunk to what it was about. */

const origin = sharedOrigin();

test("a way goes down at any moment of a hello: a host welcomed on a dying connection has one session when it is back", async () => {
  const world = await World.open(origin(), 485408088);
  try {
    const host = world.hosts[2] as ModelHost;
    world.calm();
    for (let ms = 0; ms < 400; ms += 8) {
      host.kill();
      await world.time.advance(500);
      host.start();
      await world.time.advance(ms);
      host.setup.wire.weather = "down";
      await world.time.advance(500);
      host.setup.wire.weather = "fair";
    }
    expect(await world.rest(240_000)).toMatchObject({ left: [], faults: [] });
  } finally {
    await world.close();
  }
});
