import { existsSync } from "node:fs";
import { join } from "node:path";
import { buildAgent } from "../build-agent.ts";
import { makeReleaseKey } from "../release.ts";
import type { Api } from "./api.ts";
import { Container } from "./container.ts";
import { type ControlPlane, startControlPlane } from "./control-plane.ts";
import { type EchoStream, echoStream } from "./echo-stream.ts";
import { createLab, type Lab, type LabHost, WEB_LISTED } from "./lab.ts";
import { enrolHost, makeCustomer, openLine, orderLine, putCatalogue, signInAsAdmin, untilCompleted } from "./stage.ts";
import { connectTunnel } from "./wireguard-client.ts";

/** A lab whose forward and exit are machines with a real systemd, before anything is installed on them. */
export interface ContainerWorld {
  lab: Lab;
  cp: ControlPlane;
  admin: Api;
  releases: string;
  boardingId: string;
  forward: Container;
  exit: Container;
  client: LabHost;
}

/** A release key of this lab's own; its private half is on no host of the lab. */
export function testReleaseKey(lab: Lab): string {
  const file = join(lab.net.dir, "release.key");
  if (!existsSync(file)) makeReleaseKey(file);
  return file;
}

/** Builds the agent, starts the control plane that hands it out, boots the containers, puts a catalogue in place. */
export async function createContainerWorld(purpose: string): Promise<ContainerWorld> {
  const lab = await createLab({ clients: 1, purpose });
  try {
    return await lab.explain(async () => {
      // In the folder of its host: of the lab, a host sees no other.
      const releases = join(lab.cp.dir, "releases");
      const [forwardHost, exitHost, boardingHost, client] = [
        ...[lab.forwards, lab.exits, lab.boardings, lab.clients].map(([host]) => host as LabHost),
      ] as [LabHost, LabHost, LabHost, LabHost];
      const [forward, exit] = await Promise.all([
        Container.create(lab, forwardHost),
        Container.create(lab, exitHost),
        buildAgent({ out: releases, key: testReleaseKey(lab) }),
      ]);
      const cp = await startControlPlane(lab, {
        env: {
          HOST: "0.0.0.0",
          DATA_DIR: join(lab.cp.dir, "data"),
          PUBLIC_URL: `http://${lab.cp.address}:8787`,
          RELEASES_DIR: releases,
          PORT_QUARANTINE_S: "0",
        },
      });
      const admin = await signInAsAdmin(lab, cp);
      await putCatalogue(admin);
      const boarding = await enrolHost(lab, cp, admin, boardingHost);
      return { lab, cp, admin, releases, boardingId: boarding.id, forward, exit, client };
    });
  } catch (error) {
    await lab.close();
    throw error;
  }
}

export type RunningLine = { id: string; token: string };

/** A customer buys a line, opens it and connects. Resolves once packets go through it. */
export async function runLine(world: ContainerWorld, forwardId: string): Promise<RunningLine> {
  const { lab, cp, admin, boardingId, client } = world;
  await admin.post("/pairs", { boardingHostId: boardingId, forwardHostId: forwardId, maxLoad: 10 });
  const { api } = await makeCustomer(admin, "mei");
  const { order } = await orderLine(api);
  const [line] = await untilCompleted(api, order.id);
  const { token } = await api.post(`/lines/${line.id}/tokens`, { name: "test" });
  const opened = await openLine(cp.localUrl, token);
  await connectTunnel(lab, client, opened.conf);
  const stream = echoStream(client, WEB_LISTED);
  await stream.answers();
  await stream.stop();
  return { id: line.id, token };
}

/** Does something while the customer's packets run at 5 ms, and tells how many of them were lost. */
export async function lossDuring(
  world: ContainerWorld,
  body: () => Promise<void>,
): Promise<{ sent: number; lost: number; ms: number }> {
  const stream: EchoStream = echoStream(world.client, WEB_LISTED, 5);
  // After a reboot a WireGuard client finds out only by 15 s without an answer that its session is gone.
  await stream.answers(60_000);
  const startedAt = performance.now();
  try {
    await body();
    await stream.answers();
  } catch (error) {
    await stream.stop();
    throw error;
  }
  const { sent, lost } = await stream.stop();
  return { sent, lost, ms: Math.round(performance.now() - startedAt) };
}
