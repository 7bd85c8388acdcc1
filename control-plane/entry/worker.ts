import { AppError } from "../../shared/errors.ts";
import { jsonLog } from "../adapters/log/json.ts";
import { webcryptoSigner } from "../adapters/signer/webcrypto.ts";
import { createApp } from "../app.ts";
import type { Log, Signer } from "../ports/index.ts";
import { type EdgeEnvironment, readEdgeEnvironment, settingsOf } from "./config.ts";
import { detachedPorts, webClock } from "./detached-ports.ts";

/** What the runtime hands to a request, as far as it is used. */
type ExecutionContext = { waitUntil(work: Promise<unknown>): void };

/** What outlives a request: plain values only. A promise or a connection of one request may not be touched by another. */
type Isolate = { env: EdgeEnvironment; signer: Signer };
let isolate: Isolate | undefined;

/**
 * The edge profile, on Workers: the HTTP API on a libSQL server. Hosts' links, jobs and captures are not here yet: the link
 * is not mounted, due jobs stay in the outbox, what needs them answers `links_elsewhere`.
 */
export default {
  async fetch(request: Request, bindings: Record<string, unknown>, ctx: ExecutionContext): Promise<Response> {
    // biome-ignore lint/suspicious/noConsole: the runtime's log is the console
    const log = jsonLog((line) => console.log(line), webClock.now);
    const ready = await prepare(bindings, log);
    if (ready === undefined) return notConfigured();
    const { env, signer } = ready;
    const ports = detachedPorts({
      database: { url: env.DATABASE_URL, authToken: env.DATABASE_AUTH_TOKEN },
      signer,
      log,
      // The runtime only passes on requests for hosts that are routed to us, so their name can be believed.
      settings: settingsOf(env, env.PUBLIC_URL ?? new URL(request.url).origin),
      background: (work) => ctx.waitUntil(work),
    });
    // An app for each request, a third of a millisecond: its ports carry this request's connection and context.
    const app = createApp(ports, { addressOf: (c) => c.req.header("cf-connecting-ip") ?? "unknown" });
    return app.fetch(request);
  },
};

/** Reads the configuration once for the isolate; undefined, with the variables named in the log, when it is not valid. */
async function prepare(bindings: Record<string, unknown>, log: Log): Promise<Isolate | undefined> {
  if (isolate !== undefined) return isolate;
  try {
    const env = readEdgeEnvironment(bindings);
    isolate = { env, signer: await webcryptoSigner(env.SIGNING_KEY) };
  } catch (error) {
    log.error("not configured", { error });
  }
  return isolate;
}

function notConfigured(): Response {
  const { status, code, title } = new AppError("overloaded");
  return Response.json(
    { type: `urn:trunkline:error:${code}`, title, status, code },
    { status, headers: { "content-type": "application/problem+json" } },
  );
}
