import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { sql } from "drizzle-orm";
import { expect, test } from "vitest";
import { openFileDatabase } from "./libsql-file.ts";

const MIGRATIONS = resolve(import.meta.dirname, "../../../migrations");
const TAG = "host_life";

test("a database of the release before, whose exits share addresses, comes up: the exit with a line keeps it, of two the reachable one, else the oldest", async () => {
  const directory = await mkdtemp(join(tmpdir(), "trunkline-test-"));
  try {
    const before = join(directory, "migrations");
    await cp(MIGRATIONS, before, { recursive: true });
    const file = join(before, "meta/_journal.json");
    const journal = JSON.parse(await readFile(file, "utf8")) as { entries: { tag: string }[] };
    const from = journal.entries.findIndex((entry) => entry.tag.endsWith(TAG));
    expect(from).toBeGreaterThan(0);
    await writeFile(file, JSON.stringify({ ...journal, entries: journal.entries.slice(0, from) }));
    const path = join(directory, "trunkline.db");
    const old = await openFileDatabase(path, { migrations: before });
    const add = (id: string, address: string, state = "online", role = "exit") =>
      old.write(async (tx) => {
        await tx.all(sql`INSERT INTO hosts (id, role, region_id, name, approved, state, public_address, relay_driver, wireguard_port,
          uplink_port, enrolment_token_id, identity_public_key, box_public_key, facts, version, desired_rev, epoch, created_at)
          VALUES (${id}, ${role}, 'r', 'h', 1, ${state}, ${address}, 'nft', 1, 1, 'enr_1', ${id}, 'k', '{}', '1', 1, 0, 0)`);
      });
    await old.write(async (tx) => {
      await tx.all(sql`INSERT INTO regions (id, name, saleable, created_at) VALUES ('r', 'r', 1, 0)`);
    });
    for (const id of ["hst_1", "hst_2", "hst_3"]) await add(id, "192.0.2.1");
    for (const id of ["hst_4", "hst_5"]) await add(id, "192.0.2.2");
    await add("hst_6", "192.0.2.3");
    // A machine that died, and the one that an operator gave its address: both have a line.
    await add("hst_9a", "192.0.2.9", "offline");
    await add("hst_9b", "192.0.2.9");
    await add("hst_fwd", "192.0.2.4", "online", "forward");
    await add("hst_7", "192.0.2.3", "retired");
    await add("hst_8", "192.0.2.3", "online", "boarding");
    await old.write(async (tx) => {
      await tx.all(
        sql`INSERT INTO users (id, name, role, state, certification, password_hash, created_at) VALUES ('usr_1', 'u', 'customer', 'active', 'passed', 'x', 0)`,
      );
      await tx.all(sql`INSERT INTO groups (id, user_id, name, created_at) VALUES ('grp_1', 'usr_1', 'default', 0)`);
      await tx.all(sql`INSERT INTO quotes (id, user_id, price_id, charge_type, periods, quantity, months, lines, total_fen, basis_hash, created_at, expires_at)
        VALUES ('quo_1', 'usr_1', 'p', 'month', 1, 1, 1, '[]', 1, 'x', 0, 0)`);
      await tx.all(sql`INSERT INTO orders (id, user_id, kind, state, quote_id, group_id, service_type_ids, quantity, amount_fen, created_at, pay_by)
        VALUES ('ord_1', 'usr_1', 'create', 'completed', 'quo_1', 'grp_1', '[]', 1, 1, 0, 0)`);
      for (const [i, exit] of ["hst_2", "hst_9a", "hst_9b"].entries()) {
        const [resource, line] = [`res_${i + 1}`, `lin_${i + 1}`];
        await tx.all(sql`INSERT INTO resources (id, order_id, ordinal, user_id, group_id, kind, state, starts_at, ends_at, anchor_day, created_at)
          VALUES (${resource}, 'ord_1', ${i}, 'usr_1', 'grp_1', 'line', 'running', 0, 0, 1, 0)`);
        await tx.all(sql`INSERT INTO lines (id, user_id, resource_id, source_region_id, destination_region_id, line_type, state, exit_host_id, created_at)
          VALUES (${line}, 'usr_1', ${resource}, 'r', 'r', 'golden', 'active', ${exit}, 0)`);
      }
    });
    await old.close();
    const db = await openFileDatabase(path, { migrations: MIGRATIONS });
    const rows = await db.read.all<{ id: string; address: string | null }>(
      sql`SELECT id, public_address AS address FROM hosts ORDER BY id`,
    );
    await db.close();
    expect(Object.fromEntries(rows.map(({ id, address }) => [id, address]))).toEqual({
      hst_1: null,
      hst_2: "192.0.2.1",
      hst_3: null,
      hst_4: "192.0.2.2",
      hst_5: null,
      hst_6: "192.0.2.3",
      hst_7: "192.0.2.3",
      hst_8: "192.0.2.3",
      hst_9a: null,
      hst_9b: "192.0.2.9",
      hst_fwd: "192.0.2.4",
    });
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
});
