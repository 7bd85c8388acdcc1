import { expect, test } from "vitest";
import { retireHost } from "../../control-plane/services/hosts/life.ts";
import { updateHost } from "../../control-plane/services/hosts/update.ts";
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

test("a retired host that was let go loses its disk and is edited by hand: nobody tells it what to hold, and none is waited for", () =>
  inWorld(0, async (world) => {
    const host = world.hosts[1] as ModelHost;
    world.call("retire", async (_, operator) => void (await retireHost(operator, host.setup.id)));
    await world.time.advance(1);
    expect(await world.rest(240_000)).toMatchObject({ left: [], faults: [] });
    expect(host.kernel.size).toBe(0);
    host.kill();
    host.damageState(0);
    host.kernel.set("relay 0-0", "by hand");
    world.calm();
    await world.time.advance(60_000);
  }));

test("a newer session's socket dies while its hello is stored: the older one does not stay, and the host is not believed to hold less", () =>
  inWorld(1, async (world) => {
    const host = world.hosts[4] as ModelHost;
    world.clone(host);
    const [clone] = world.clones as [ModelHost];
    for (let ms = 0; ms < 320; ms += 8) {
      world.call("update", async (_, operator) => {
        await updateHost(operator, host.setup.id, { wireguardPort: 50_000 + ms });
      });
      await world.time.advance(1000);
      await world.rest(240_000);
      // It knows nothing of the change.
      clone.start();
      await world.time.advance(ms);
      clone.kill();
      await world.time.advance(1000);
      expect(await world.rest(240_000)).toMatchObject({ left: [], faults: [] });
    }
  }));
