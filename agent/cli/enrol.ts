import { mkdirSync, readFileSync } from "node:fs";
import { dirname } from "node:path";
import {
  type EnrolRequest,
  type EnrolResponse,
  enrolResponseSchema,
  type HostRole,
} from "../../shared/protocol/enrolment.ts";
import { UsageError } from "../config.ts";
import { writeDurable } from "../durable-file.ts";
import { gatherFacts, VERSION } from "../facts.ts";
import { makeKeys } from "../keys.ts";
import type { Log } from "../log.ts";
import { StateStore } from "../state-store.ts";

export interface EnrolOptions {
  url: string;
  role: HostRole;
  configFile: string;
  stateDir: string;
  force: boolean;
  token: string;
  log: Log;
}

/** The token: from a file, the environment or stdin; never from argv, which every user of the host can read. */
export async function readToken(tokenFile: string | undefined): Promise<string> {
  const fromEnv = process.env.TRUNKLINE_TOKEN;
  let text: string;
  if (tokenFile !== undefined) {
    try {
      text = readFileSync(tokenFile, "utf8");
    } catch (error) {
      throw new UsageError(`The token file can't be read: ${(error as Error).message}`);
    }
  } else if (fromEnv !== undefined) {
    text = fromEnv;
  } else if (process.stdin.isTTY) {
    throw new UsageError("No enrolment token: set TRUNKLINE_TOKEN, pipe it to stdin, or use --token-file FILE.");
  } else {
    const chunks: Buffer[] = [];
    for await (const chunk of process.stdin) chunks.push(chunk as Buffer);
    text = Buffer.concat(chunks).toString();
  }
  const token = text.trim();
  if (!/^[\x21-\x7e]{8,512}$/.test(token))
    throw new UsageError("The enrolment token is empty or not a token. Copy it again from the console.");
  return token;
}

/** Makes this host known to a control plane. Throws {@link UsageError} with what to do next. */
export async function enrol(options: EnrolOptions): Promise<EnrolResponse> {
  const { url, role, configFile, stateDir, force, token, log } = options;
  const store = new StateStore(stateDir, log);
  const before = store.enrolment();
  if (before && !force)
    throw new UsageError(
      `This host is already enrolled as ${before.hostId} (${before.role}). Nothing was changed. ` +
        "To make it a new host, run enrol again with --force.",
    );
  // Kept before they are shown to anyone: when the answer is lost, the next try presents the same keys.
  // Kept apart from the keys in use: a refused --force leaves the host as it was.
  const pending = store.pendingKeys();
  const fits = pending && (role === "exit") === (pending.wireguard !== null);
  const keys = fits ? pending : makeKeys(role);
  if (!fits) store.savePendingKeys(keys);
  const request: EnrolRequest = {
    role,
    version: VERSION,
    identityPublicKey: keys.identity.publicKey,
    boxPublicKey: keys.box.publicKey,
    wireguardPublicKey: role === "exit" ? (keys.wireguard?.publicKey ?? null) : null,
    facts: gatherFacts(),
  };
  const answer = await post(`${url.replace(/\/+$/, "")}/agent/enrol`, token, request).catch((error: unknown) => {
    // The control plane knows these keys, and its answer to them was lost: no later try could use them.
    if (error instanceof EnrolRefused && error.status === 409) store.dropPendingKeys();
    throw error;
  });
  if (before) store.forgetHost();
  store.saveKeys(keys);
  store.saveEnrolment({ hostId: answer.hostId, role, controlPlaneKey: answer.controlPlaneKey });
  store.dropPendingKeys();
  mkdirSync(dirname(configFile), { recursive: true });
  const config = { endpoints: [url.replace(/\/+$/, "")], role, stateDir };
  writeDurable(configFile, `${JSON.stringify(config, null, 2)}\n`, 0o644);
  return answer;
}

const NEW_TOKEN = "Ask for a new enrolment token in the console.";
const NEXT: Record<number, string> = {
  401: NEW_TOKEN,
  403: NEW_TOKEN,
  409: `An earlier try got through and its answer was lost: retire that host in the console. ${NEW_TOKEN}`,
  429: "Wait a minute, then run this again.",
};
const NEXT_ELSE = "Run this again later, or give the operator the code above.";

class EnrolRefused extends UsageError {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

async function post(url: string, token: string, body: EnrolRequest): Promise<EnrolResponse> {
  let response: Response;
  try {
    response = await fetch(url, {
      method: "POST",
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
      body: JSON.stringify(body),
      // A redirect could carry the token to someone else.
      redirect: "error",
      signal: AbortSignal.timeout(30_000),
    });
  } catch (error) {
    const cause = (error as { cause?: Error }).cause?.message ?? (error as Error).message;
    throw new UsageError(
      `The control plane can't be reached at ${url} (${cause}). Check the address, then run this again.`,
    );
  }
  const value: unknown = await response.json().catch(() => undefined);
  if (!response.ok) {
    const { code = "no code", detail, title } = (value ?? {}) as { code?: string; detail?: string; title?: string };
    const said = detail ?? title ?? "no explanation";
    throw new EnrolRefused(
      response.status,
      `The control plane refused the enrolment: ${said} (HTTP ${response.status}, ${code}). ${NEXT[response.status] ?? NEXT_ELSE}`,
    );
  }
  const result = enrolResponseSchema.safeParse(value);
  if (!result.success)
    throw new UsageError(`${url} did not answer as a Trunkline control plane does. Check --url, or upgrade the agent.`);
  return result.data;
}
