import { eq } from "drizzle-orm";
import { expect, test } from "vitest";
import type { Observation } from "../../../shared/protocol/frames.ts";
import * as t from "../../db/schema/index.ts";
import { makeHarness } from "../../testing/harness.ts";
import { enrolHosts, hostsUp, key32, makeCustomer, makePerson, stockCatalogue } from "../../testing/world.ts";

test("operators scrape one series a host and name: link, lag, conntrack, UDP errors, handshake age, refusals", async () => {
  const h = await makeHarness();
  await stockCatalogue(h);
  const [exit, silent] = await enrolHosts(h, "exit", 2);
  if (exit === undefined || silent === undefined) throw new Error("no hosts");
  await hostsUp(h);
  const now = h.clock.now();
  const peer = { endpoint: null, rxBytes: 1, txBytes: 1 };
  const observed: Observation = {
    conntrack: { count: 50, max: 200, drops: 3 },
    udp: { inErrors: 7, rcvbufErrors: 5, sndbufErrors: 0 },
    wireguard: [
      {
        interface: "tl0",
        peers: [
          { ...peer, publicKey: key32(h), lastHandshakeAt: now - 90_000 },
          { ...peer, publicKey: key32(h), lastHandshakeAt: null },
        ],
      },
    ],
    whitelist: [{ item: "whitelist", deniedPackets: 11, entries: 1 }],
  };
  await h.ports.db.write(async (db) => {
    await db.update(t.hosts).set({ observed, desiredRev: 9, appliedRev: 7 }).where(eq(t.hosts.id, exit));
    await db
      .update(t.hosts)
      .set({ state: "offline", lastSeenAt: now - 5_000 })
      .where(eq(t.hosts.id, silent));
  });
  const admin = await makePerson(h, "admin", "boss");
  const { status, text, headers } = await h.request("GET", "/metrics/hosts", undefined, { headers: admin.auth });
  expect(status).toBe(200);
  expect(headers.get("content-type")).toContain("text/plain");
  const value = (name: string, host: string) =>
    new RegExp(`^trunkline_host_${name}\\{host="${host}",role="exit"\\} (\\S+)$`, "m").exec(text)?.[1];
  const all = (host: string) =>
    Object.fromEntries(
      [...text.matchAll(/^# TYPE trunkline_host_(\w+)/gm)].map(([, name = ""]) => [name, value(name, host)]),
    );
  expect(all(exit)).toEqual({
    linked: "1",
    silent_seconds: "0",
    revisions_behind: "2",
    conntrack_entries: "50",
    conntrack_limit: "200",
    conntrack_drops_total: "3",
    udp_in_errors_total: "7",
    udp_rcvbuf_errors_total: "5",
    udp_sndbuf_errors_total: "0",
    handshake_age_seconds: "90",
    denied_packets_total: "11",
  });
  expect(all(silent)).toMatchObject({ linked: "0", silent_seconds: "5", conntrack_entries: undefined });
  // One series a host and name, none for a host that was sent away.
  expect(text.match(/^trunkline_host_linked/gm)).toHaveLength(2);
  await h.ports.db.write((db) => db.update(t.hosts).set({ state: "retired" }).where(eq(t.hosts.id, silent)));
  const after = await h.request("GET", "/metrics/hosts", undefined, { headers: admin.auth });
  expect(after.text).not.toContain(silent);
  const customer = await makeCustomer(h, "customer");
  expect((await h.request("GET", "/metrics/hosts", undefined, { headers: customer.auth })).status).toBe(403);
});
