import { z } from "zod";

const DAY_MS = 86_400_000;
const list = z.string().transform((s) =>
  s
    .split(",")
    .map((part) => part.trim())
    .filter((part) => part !== ""),
);
const seconds = z.coerce.number().int().min(1);

/** Every variable the control plane reads, with its default. An empty one counts as absent. */
export const environmentSchema = z.object({
  /** Address and port to listen on. */
  HOST: z.string().min(1).default("127.0.0.1"),
  PORT: z.coerce.number().int().min(0).max(65_535).default(8787),
  /** Where the embedded profile keeps its database, signing key and captures. */
  DATA_DIR: z.string().min(1).default("./data"),
  /** Folder of agents to hand out, as `npm run build:agent` makes it. Default: dist/agent of this installation. */
  RELEASES_DIR: z.string().min(1).optional(),
  /** Base URL that customers and hosts use. */
  PUBLIC_URL: z.url({ protocol: /^https?$/ }).optional(),
  /** libSQL server, for the profiles that have one. */
  DATABASE_URL: z.url({ protocol: /^(https?|libsql)$/ }).optional(),
  DATABASE_AUTH_TOKEN: z.string().min(1).optional(),
  /** Redis, for several processes on one database: wake-ups only. */
  REDIS_URL: z.url({ protocol: /^rediss?$/ }).optional(),
  /** Ed25519 seed, 32 bytes in base 64. Embedded: made on first start and kept in DATA_DIR when absent. */
  SIGNING_KEY: z
    .string()
    .regex(/^[A-Za-z0-9+/]{43}=$/, "must be 32 bytes in base 64")
    .optional(),
  /** Origins of pages that may change things with the session cookie, by comma. */
  ALLOWED_ORIGINS: list.default([]),
  /** Addresses of proxies whose X-Forwarded-For is believed, by comma. */
  TRUSTED_PROXIES: list.default([]),
  /** DNS servers in client configurations, by comma. */
  CLIENT_DNS: list.default(["1.1.1.1"]),
  ORDER_PAY_TIMEOUT_S: seconds.default(900),
  QUOTE_LIFETIME_S: seconds.default(900),
  SESSION_LIFETIME_S: seconds.default(2_592_000),
  PORT_QUARANTINE_S: z.coerce.number().int().min(0).default(60),
  CAPTURE_KEEP_S: seconds.default((7 * DAY_MS) / 1000),
  /** When set, /metrics is for whoever presents it as bearer token only. */
  METRICS_TOKEN: z
    .string()
    .regex(/^[A-Za-z0-9_-]{16,200}$/, "must be 16 to 200 letters, digits, dashes or underscores")
    .optional(),
  SIGN_IN_LIMIT: z.coerce.number().int().min(1).default(10),
});
export type Environment = z.infer<typeof environmentSchema>;

/** On a libSQL server, at the edge and scaled, nothing is kept on this process's disk: these have no default there. */
const edgeSchema = environmentSchema.required({ DATABASE_URL: true, SIGNING_KEY: true });
export type EdgeEnvironment = z.infer<typeof edgeSchema>;

/** Reads the configuration. Throws an error whose message names every variable that is wrong, and what it should be. */
export function readEnvironment(env: Record<string, unknown>): Environment {
  return read(environmentSchema, env);
}

/** The same for the profiles on a libSQL server: the worker's bindings, or the environment of a scaled process. */
export function readEdgeEnvironment(bindings: Record<string, unknown>): EdgeEnvironment {
  return read(edgeSchema, bindings);
}

function read<S extends typeof environmentSchema | typeof edgeSchema>(
  schema: S,
  env: Record<string, unknown>,
): z.infer<S> {
  const known = Object.keys(schema.shape);
  const given = Object.fromEntries(
    known.map((name) => [name, env[name]]).filter(([, value]) => value !== undefined && value !== ""),
  );
  const result = schema.safeParse(given);
  if (result.success) return result.data as z.infer<S>;
  const problems = result.error.issues.map(
    (issue) => `  ${issue.path.join(".")}: ${String(issue.path[0]) in given ? issue.message : "is not set"}`,
  );
  throw new Error(`The configuration is not valid:\n${problems.join("\n")}`);
}

/** The settings of the rules, from the environment. */
export function settingsOf(env: Environment, publicUrl: string) {
  return {
    orderPayTimeoutMs: env.ORDER_PAY_TIMEOUT_S * 1000,
    quoteLifetimeMs: env.QUOTE_LIFETIME_S * 1000,
    sessionLifetimeMs: env.SESSION_LIFETIME_S * 1000,
    portQuarantineMs: env.PORT_QUARANTINE_S * 1000,
    captureKeepMs: env.CAPTURE_KEEP_S * 1000,
    publicUrl: publicUrl.replace(/\/$/, ""),
    allowedOrigins: env.ALLOWED_ORIGINS,
    clientDns: env.CLIENT_DNS,
    signInLimit: env.SIGN_IN_LIMIT,
    metricsToken: env.METRICS_TOKEN,
  };
}
