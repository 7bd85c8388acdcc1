import { existsSync, readFileSync, realpathSync, renameSync, rmSync, statfsSync } from "node:fs";
import { join } from "node:path";
import { AGENT_BUNDLE, parseReleaseKeys, type ReleaseFile } from "../../shared/protocol/release.ts";
import type { UpgradeParams, UpgradeResult } from "../../shared/protocol/tasks.ts";
import { makePrivateDir } from "../durable-file.ts";
import type { Log } from "../log.ts";
import { formOf } from "../state-schema.ts";
import { type TaskContext, TaskError, type TaskRunner } from "../tasks/types.ts";
import { fetchBundle } from "./fetch-bundle.ts";
import { UpgradeFiles, type UpgradeRequest } from "./files.ts";
import { judgeUpgrade } from "./judge.ts";

/** Beside the bundle itself, so that a host is not filled to its last block by an upgrade. */
const SPARE_BYTES = 16 * 1024 * 1024;
/** A download may outlive the task and the link that began it, not this. */
const FETCH_MS = 15 * 60_000;
/** The answer goes out first. */
const RESTART_AFTER_MS = 250;

export interface UpgraderDeps {
  stateDir: string;
  /** Where the installer put the agent. */
  opt: string;
  /** File of the pinned release keys. */
  keysFile: string;
  /** The version that runs, and its file. */
  version: string;
  bundle: string;
  log: Log;
  /** Ends this process; systemd starts it again, by way of the gate. */
  restart(): void;
}

/**
 * Runs the task `upgrade`. It is asked again and again under one attempt, also after a restart and by another version:
 * where an upgrade stands is on the disk, in the notes that it shares with the gate.
 */
export function createUpgrader(deps: UpgraderDeps): TaskRunner<UpgradeParams> {
  const { version, log } = deps;
  const files = new UpgradeFiles(deps.stateDir);
  let work: { attempt: string; done: Promise<void> } | undefined;
  /** The request that this process wrote. The gate acts on it before the next process starts. */
  let requested: UpgradeRequest | undefined;
  let restarting = false;

  const staged = (now: number, request?: UpgradeRequest): UpgradeResult => {
    if (!restarting) {
      // The download may have ended while there was no link: it is asked for now, and old requests are refused.
      if (request !== undefined) files.writeRequest({ ...request, asked: seconds(now) });
      setTimeout(deps.restart, RESTART_AFTER_MS);
    }
    restarting = true;
    return { state: "staged" };
  };

  return async (params, ctx): Promise<UpgradeResult> => {
    const { attempt } = params;
    const trial = files.trial();
    if (trial !== undefined) {
      if (trial.attempt !== attempt) throw new TaskError("busy", `Another upgrade, to ${trial.to}, is on trial here.`);
      if (trial.to !== version) return staged(ctx.now());
      if (!params.commit) return { state: "trial", starts: trial.starts };
      files.commit();
      log.info("this version was confirmed and stays", { version, before: trial.from });
      return { state: "committed" };
    }
    if (files.request()?.attempt === attempt) {
      if (requested?.attempt === attempt) return staged(ctx.now(), requested);
      // This process began after the request was written, and so after the gate's turn: another would end no better.
      files.dropRequest();
      throw new TaskError("gate_failed", "The gate did not bring the version into its place. Its journal says why.");
    }
    const returned = files.returned();
    if (returned?.attempt === attempt)
      return { state: "returned", reason: returned.reason, lastWords: returned.lastWords };

    const keys = existsSync(deps.keysFile) ? parseReleaseKeys(readFileSync(deps.keysFile, "utf8")) : [];
    const offer = judgeUpgrade(params, { version, stateForm: formOf(deps.stateDir), keys });
    if (offer.manifest.version === version) return { state: "committed" };
    if (work !== undefined && work.attempt !== attempt)
      throw new TaskError("busy", "Another upgrade is being fetched here.");
    // The link may go while it fetches: whoever asks next under this attempt waits for the same work.
    work ??= {
      attempt,
      done: stage(deps, files, params, offer.manifest.version, offer.bundle, ctx).then((request) => {
        requested = request;
      }),
    };
    const { done } = work;
    const aborted = new Promise<never>((_, reject) => {
      ctx.signal.addEventListener("abort", () => reject(ctx.signal.reason), { once: true });
    });
    try {
      await Promise.race([done, aborted]);
    } finally {
      done
        .finally(() => {
          work = undefined;
        })
        .catch(() => {});
    }
    return staged(ctx.now(), requested);
  };
}

const seconds = (ms: number) => Math.floor(ms / 1000);

async function stage(
  deps: UpgraderDeps,
  files: UpgradeFiles,
  params: UpgradeParams,
  version: string,
  bundle: ReleaseFile,
  ctx: TaskContext,
): Promise<UpgradeRequest> {
  const { opt, log } = deps;
  if (!existsSync(join(opt, "gate")) || !isSameFile(join(opt, "current", AGENT_BUNDLE), deps.bundle))
    throw new TaskError("not_installed", "This agent was not put here by the installer: nothing could bring it back.");
  makePrivateDir(files.dir);
  for (const dir of [files.dir, opt]) {
    const { bavail, bsize } = statfsSync(dir);
    if (bavail * bsize < 2 * bundle.size + SPARE_BYTES)
      throw new TaskError("no_space", `There is too little space in ${dir} for a bundle of ${bundle.size} bytes.`);
  }
  const [partial, staged] = [files.path("partial.mjs"), files.path("staged.mjs")];
  log.info("fetching another version of the agent", { version, bytes: bundle.size });
  await fetchBundle({
    way: () => ctx.way(),
    path: `/agent/releases/${version}/${bundle.name}`,
    file: bundle,
    target: partial,
    signal: AbortSignal.timeout(FETCH_MS),
  });
  rmSync(staged, { force: true });
  renameSync(partial, staged);
  const { attempt, trialS: limit } = params;
  const request = { attempt, version, sha256: bundle.sha256, limit, asked: seconds(ctx.now()) };
  files.writeRequest(request);
  log.info("another version of the agent is fetched and checked; it starts now, on trial", { version });
  return request;
}

function isSameFile(a: string, b: string): boolean {
  try {
    return realpathSync(a) === realpathSync(b);
  } catch {
    return false;
  }
}
