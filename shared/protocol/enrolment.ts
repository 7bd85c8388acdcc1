import { z } from "zod";
import { idSchema } from "../ids.ts";
import { interfaceSchema, ipv4Schema, key32Schema } from "./values.ts";

export const HOST_ROLES = ["boarding", "forward", "exit"] as const;
export const hostRoleSchema = z.enum(HOST_ROLES);
export type HostRole = z.infer<typeof hostRoleSchema>;

/** What a host says of itself when it enrols. */
export const hostFactsSchema = z.object({
  hostname: z.string().max(255),
  os: z.string().max(255),
  kernel: z.string().max(255),
  arch: z.string().max(32),
  /** Names of what the host can do: nft, socat, wireguard-kernel, wireguard-go, conntrack, tcpdump, systemd. */
  capabilities: z.array(z.string().max(64)).max(64),
  addresses: z.array(z.object({ interface: interfaceSchema, address: ipv4Schema })).max(64),
});
export type HostFacts = z.infer<typeof hostFactsSchema>;

/** Body of `POST /agent/enrol`. The enrolment token is the bearer token of that request. */
export const enrolRequestSchema = z.object({
  role: hostRoleSchema,
  version: z.string().min(1).max(64),
  /** Ed25519: signs every hello. */
  identityPublicKey: key32Schema,
  /** X25519: capture keys are sealed to it. */
  boxPublicKey: key32Schema,
  /** X25519: the tunnel's key. Exits only. */
  wireguardPublicKey: key32Schema.nullable(),
  facts: hostFactsSchema,
});
export type EnrolRequest = z.infer<typeof enrolRequestSchema>;

/** The answer. The agent pins the control plane's key. */
export const enrolResponseSchema = z.object({
  hostId: idSchema("hst"),
  controlPlaneKey: z.object({ keyId: z.string().min(1).max(64), publicKey: key32Schema }),
});
export type EnrolResponse = z.infer<typeof enrolResponseSchema>;
