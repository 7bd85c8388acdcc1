import { z } from "zod";
import { hostRoleSchema } from "../shared/protocol/enrolment.ts";
import { readJson } from "./durable-file.ts";

export const DEFAULT_CONFIG = "/etc/trunkline/agent.json";
export const DEFAULT_STATE_DIR = "/var/lib/trunkline";

/** The agent's configuration file: nothing secret, so an operator can read and edit it. */
export const configSchema = z.object({
  /** Base URLs of the control plane, tried in turn: direct ones, and ways through other hosts. */
  endpoints: z
    .array(z.url({ protocol: /^https?$/ }))
    .min(1)
    .max(16),
  role: hostRoleSchema,
  stateDir: z.string().min(1),
  /** How often the next hops are probed, s. */
  probeSeconds: z.number().int().min(1).max(3600).default(60),
});
export type AgentConfig = z.infer<typeof configSchema>;

/** A mistake of whoever runs the command: told in one sentence, without a stack. */
export class UsageError extends Error {
  constructor(message: string) {
    super(message);
    this.name = "UsageError";
  }
}

/** Reads the configuration. Throws {@link UsageError} that says what to do. */
export function readConfig(path: string): AgentConfig {
  const result = readJson(path, configSchema);
  if (result.kind === "ok") return result.value;
  throw new UsageError(
    result.kind === "none"
      ? `There is no configuration at ${path}. Enrol this host first: trunkline-agent enrol --url URL --role ROLE`
      : `The configuration ${path} can't be used: ${result.why}. Correct it, or enrol again with --force.`,
  );
}
