import { and, asc, eq, gt, inArray, lte, min, type SQL, sql } from "drizzle-orm";
import * as t from "../db/schema/index.ts";
import type { Ports } from "../ports/index.ts";
import { makeId, systemContext } from "../services/context.ts";
import { FOR_EVER, HANDLERS, type JobOutcome } from "./handlers.ts";
import { JOB_PAYLOADS, type JobKind } from "./kinds.ts";

const LEASE_MS = 60_000;
/** How often a worker that still runs a job says so: twice may fail before the lease ends. */
const RENEW_MS = 20_000;
/** A job that runs longer than this hangs: its lease is let go, and another worker has a try. */
const LONGEST_MS = 3_600_000;
/** A deploy or a crash for another reason costs a lease too: only a job that takes its process with it comes to this. */
const MOST_LOSSES = 5;
/** How long a job that is never given up is left alone when it came to that. */
const PAUSE_MS = 3_600_000;

/** Written as the indexes are, which serve only a query that says the same: done jobs are many. */
const WAITING = sql`${t.jobs.state} = 'waiting'`;
const RUNNING = sql`${t.jobs.state} = 'running'`;

type Job = typeof t.jobs.$inferSelect;

/**
 * Takes due jobs and runs them side by side, then those whose worker's lease ran out: the first time side by side too, since most
 * workers end for reasons of their own, and from the second time on one alone, since it may be what ended them and must take no
 * others with it again. Answers how many it took; call it again while that is more than zero. At least once: a job whose worker
 * dies is taken by another when its lease ends. A worker that lives keeps its leases.
 */
export async function runDueJobs(ports: Ports, limit: number): Promise<number> {
  const now = () => ports.clock.now();
  const run = async (due: SQL | undefined, width: number) => {
    const jobs = await take(ports, due, width);
    await Promise.all(jobs.map((job) => runJob(ports, job)));
    return jobs.length;
  };
  const due = await run(and(WAITING, lte(t.jobs.runAt, now())), limit);
  const lost = () => and(RUNNING, lte(t.jobs.leaseUntil, now()));
  const once = await run(and(lost(), eq(t.jobs.losses, 0)), limit);
  const again = await run(and(lost(), gt(t.jobs.losses, 0)), 1);
  return due + once + again;
}

/** When the next job is due, or undefined when none waits. */
export async function nextDueAt(ports: Ports): Promise<number | undefined> {
  const rows = await ports.db.read
    .select({ at: min(t.jobs.runAt) })
    .from(t.jobs)
    .where(WAITING)
    .unionAll(
      ports.db.read
        .select({ at: min(t.jobs.leaseUntil) })
        .from(t.jobs)
        .where(RUNNING),
    );
  const times = rows.flatMap(({ at }) => at ?? []);
  return times.length === 0 ? undefined : Math.min(...times);
}

async function take(ports: Ports, due: SQL | undefined, limit: number): Promise<Job[]> {
  // Mostly there is nothing: look without taking the writer.
  const [any] = await ports.db.read.select({ id: t.jobs.id }).from(t.jobs).where(due).limit(1);
  if (any === undefined) return [];
  return ports.db.write((tx) =>
    tx
      .update(t.jobs)
      .set({
        state: "running",
        attempts: sql`attempts + 1`,
        losses: sql`CASE WHEN state = 'running' THEN losses + 1 ELSE 0 END`,
        leaseToken: makeId(ports, "tsk"),
        leaseUntil: ports.clock.now() + LEASE_MS,
      })
      .where(
        inArray(
          t.jobs.id,
          tx.select({ id: t.jobs.id }).from(t.jobs).where(due).orderBy(asc(t.jobs.runAt)).limit(limit),
        ),
      )
      .returning(),
  );
}

async function runJob(ports: Ports, job: Job): Promise<void> {
  const kind = job.kind as JobKind;
  const startedAt = ports.clock.now();
  if (job.losses >= MOST_LOSSES) return giveUp(ports, job);
  const letGo = keepLease(ports, job, startedAt + LONGEST_MS);
  try {
    const handler = HANDLERS[kind];
    if (handler === undefined) throw new Error(`no handler for jobs of kind ${job.kind}`);
    const payload = JOB_PAYLOADS[kind].parse(job.payload);
    const run = handler.run as (...args: unknown[]) => Promise<JobOutcome>;
    const outcome = await run(systemContext(ports, `job:${kind}`), payload);
    await settle(ports, job, outcome);
    ports.metrics.count("jobs_run", { kind, outcome: outcome === "done" ? "done" : "again" });
  } catch (error) {
    await fail(ports, job, error, HANDLERS[kind]?.maxAttempts ?? 1);
  } finally {
    await letGo();
  }
  ports.metrics.time("job_ms", ports.clock.now() - startedAt, { kind });
}

/**
 * Renews a job's lease until that instant, for as long as it is this worker's. Answers how to stop, which waits for a renewal
 * that is under way.
 */
function keepLease(ports: Ports, job: Job, until: number): () => Promise<void> {
  let stopped = false;
  let callOff = () => {};
  let renewal = Promise.resolve();
  const arm = () => {
    callOff = ports.delay(RENEW_MS, () => {
      renewal = renew();
    });
  };
  const renew = async () => {
    const now = ports.clock.now();
    if (now >= until) return;
    try {
      const { rowsAffected } = await ports.db.write((tx) =>
        tx
          .update(t.jobs)
          .set({ leaseUntil: now + LEASE_MS })
          .where(held(job)),
      );
      if (rowsAffected === 0) return;
    } catch (error) {
      ports.log.warn("could not renew a job's lease", { job: job.id, kind: job.kind, error });
    }
    if (!stopped) arm();
  };
  arm();
  return () => {
    stopped = true;
    callOff();
    return renewal;
  };
}

/** Nobody came back from it so often that it is the job that ends them: it is not run again, or where it must be, much later. */
async function giveUp(ports: Ports, job: Job): Promise<void> {
  const error = new Error(`its worker was gone before it ended, ${job.losses} times in a row`);
  if (HANDLERS[job.kind as JobKind]?.maxAttempts === FOR_EVER) await fail(ports, job, error, FOR_EVER, PAUSE_MS);
  else await fail(ports, job, error, 0);
}

/** Only the worker that holds the lease may write the outcome. */
function held(job: Job) {
  return and(eq(t.jobs.id, job.id), eq(t.jobs.state, "running"), eq(t.jobs.leaseToken, job.leaseToken ?? ""));
}

async function settle(ports: Ports, job: Job, outcome: JobOutcome): Promise<void> {
  const now = ports.clock.now();
  await ports.db.write(async (tx) => {
    await tx
      .update(t.jobs)
      .set(
        outcome === "done"
          ? { state: "done", finishedAt: now, lastError: null, leaseToken: null, leaseUntil: null }
          : {
              state: "waiting",
              runAt: now + outcome.againInMs,
              // Asking again is no failure: what has to wait long must not die of its first one.
              attempts: job.attempts - 1,
              lastError: null,
              leaseToken: null,
              leaseUntil: null,
            },
      )
      .where(held(job));
  });
  if (outcome !== "done") ports.jobBell.ring(now + outcome.againInMs);
}

async function fail(ports: Ports, job: Job, error: unknown, maxAttempts: number, pauseMs = 0): Promise<void> {
  const dead = job.attempts >= maxAttempts;
  ports.log.error(dead ? "job is a dead letter" : "job failed", {
    job: job.id,
    kind: job.kind,
    attempt: job.attempts,
    error,
  });
  ports.metrics.count("jobs_run", { kind: job.kind, outcome: dead ? "dead" : "failed" });
  const now = ports.clock.now();
  const [byte = 0] = ports.random.bytes(1);
  const backOff = Math.min(300_000, 1000 * 2 ** Math.min(job.attempts, 9)) * (0.5 + byte / 512);
  const runAt = now + Math.max(pauseMs, Math.round(backOff));
  await ports.db.write(async (tx) => {
    await tx
      .update(t.jobs)
      .set({
        state: dead ? "dead" : "waiting",
        runAt,
        lastError: (error instanceof Error ? error.message : String(error)).slice(0, 1000),
        leaseToken: null,
        leaseUntil: null,
        finishedAt: dead ? now : null,
      })
      .where(held(job));
  });
  if (!dead) ports.jobBell.ring(runAt);
}
