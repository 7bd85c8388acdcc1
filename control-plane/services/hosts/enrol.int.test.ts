import { eq } from "drizzle-orm";
import { expect, test } from "vitest";
import { isAppError } from "../../../shared/errors.ts";
import * as t from "../../db/schema/index.ts";
import { type Harness, makeHarness } from "../../testing/harness.ts";
import { enrolRequest, stockCatalogue, systemOf } from "../../testing/world.ts";
import { desiredState } from "./desired-state.ts";
import { enrolHost } from "./enrol.ts";
import { createEnrolmentToken } from "./enrolment-tokens.ts";

async function stocked(): Promise<Harness> {
  const h = await makeHarness();
  await stockCatalogue(h);
  return h;
}

function makeToken(h: Harness, maxUses: number) {
  return createEnrolmentToken(systemOf(h), { role: "exit", regionId: "uae-dubai", maxUses, expiresInS: 3600 });
}

async function outcome(enrolling: Promise<{ hostId: string }>): Promise<string> {
  try {
    await enrolling;
    return "enrolled";
  } catch (error) {
    if (isAppError(error)) return error.code;
    throw error;
  }
}

test("a token enrols as many hosts as it has uses, however many come at once", async () => {
  const h = await stocked();
  for (const maxUses of [1, 7]) {
    const { token, id } = await makeToken(h, maxUses);
    const outcomes = await Promise.all(
      Array.from({ length: 40 }, () => outcome(enrolHost(systemOf(h), token, enrolRequest(h, "exit")))),
    );
    expect(outcomes.filter((o) => o === "enrolled")).toHaveLength(maxUses);
    expect(outcomes.filter((o) => o === "enrolment_refused")).toHaveLength(40 - maxUses);
    const [row] = await h.ports.db.read.select().from(t.enrolmentTokens).where(eq(t.enrolmentTokens.id, id));
    expect(row?.used).toBe(maxUses);
  }
  expect(await h.ports.db.read.select().from(t.hosts)).toHaveLength(8);
});

test("a token that is unknown, expired, of another role or of no form is refused, and none says which", async () => {
  const h = await stocked();
  const { token } = await makeToken(h, 5);
  const details = new Set<string>();
  const refuse = async (what: string, role: "exit" | "forward", secret: string) => {
    const error = await enrolHost(systemOf(h), secret, enrolRequest(h, role)).catch((e: unknown) => e);
    expect([what, isAppError(error, "enrolment_refused")]).toEqual([what, true]);
    details.add((error as Error).message);
  };
  await refuse("unknown", "exit", `tl_enr_${"A".repeat(43)}`);
  await refuse("another role", "forward", token);
  await refuse("no form", "exit", "tl_enr_short");
  await refuse("another kind", "exit", token.replace("tl_enr_", "tl_api_"));
  h.clock.advance(3_600_000);
  await refuse("expired", "exit", token);
  expect(details.size).toBe(1);
  expect(await h.ports.db.read.select().from(t.hosts)).toEqual([]);
});

test("a host whose answer was lost asks again and gets the same one, at no cost", async () => {
  const h = await stocked();
  const { token, id } = await makeToken(h, 1);
  const request = enrolRequest(h, "exit");
  const first = await enrolHost(systemOf(h), token, request);
  expect(await enrolHost(systemOf(h), token, request)).toEqual(first);
  const [row] = await h.ports.db.read.select().from(t.enrolmentTokens).where(eq(t.enrolmentTokens.id, id));
  expect(row?.used).toBe(1);
  // The token is used up for everyone else, also for who knows the identity's public key.
  const thief = { ...enrolRequest(h, "exit"), identityPublicKey: request.identityPublicKey };
  expect(await outcome(enrolHost(systemOf(h), token, thief))).toBe("enrolment_refused");
});

test("an identity enrols once: with another token it is refused, and that costs the token nothing", async () => {
  const h = await stocked();
  const [first, second] = [await makeToken(h, 5), await makeToken(h, 5)];
  const request = enrolRequest(h, "exit");
  await enrolHost(systemOf(h), first.token, request);
  expect(await outcome(enrolHost(systemOf(h), second.token, request))).toBe("conflict");
  const [row] = await h.ports.db.read.select().from(t.enrolmentTokens).where(eq(t.enrolmentTokens.id, second.id));
  expect(row?.used).toBe(0);
});

test("an enrolled host waits for an operator: until then it should hold nothing", async () => {
  const h = await stocked();
  const { token } = await makeToken(h, 1);
  const { hostId, controlPlaneKey } = await enrolHost(systemOf(h), token, enrolRequest(h, "exit"));
  const [host] = await h.ports.db.read.select().from(t.hosts);
  expect(host).toMatchObject({ id: hostId, approved: false, state: "pending", desiredRev: 0, regionId: "uae-dubai" });
  expect(controlPlaneKey.publicKey).toBe(h.ports.signer.publicKey);
  expect(await desiredState(h.ports.db.read, hostId)).toMatchObject({ rev: 0, items: [] });
});

test("the token is stored as a hash, and is in no audit row", async () => {
  const h = await stocked();
  const { token } = await makeToken(h, 1);
  await enrolHost(systemOf(h), token, enrolRequest(h, "exit"));
  const stored = JSON.stringify([
    await h.ports.db.read.select().from(t.enrolmentTokens),
    await h.ports.db.read.select().from(t.auditLog),
  ]);
  expect(stored).not.toContain(token);
});
