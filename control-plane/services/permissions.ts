import type { Role } from "../db/schema/index.ts";

/** Everything a route can ask for. One table: what each role holds. An API token's scopes are a part of its owner's. */
const CUSTOMER = [
  "me:read",
  "me:write",
  "tokens:write",
  "catalogue:read",
  "orders:read",
  "orders:write",
  "wallet:read",
  "lines:read",
  "lines:write",
  "lines:use",
] as const;

const SUPPORT = [
  "me:read",
  "me:write",
  "tokens:write",
  "catalogue:read",
  "orders:read",
  "wallet:read",
  "lines:read",
  "lines:write",
  "users:read",
  "hosts:read",
  "jobs:read",
  "diagnostics:run",
] as const;

const FINANCE = [
  "me:read",
  "me:write",
  "tokens:write",
  "catalogue:read",
  "orders:read",
  "wallet:read",
  "users:read",
  "wallet:credit",
  "audit:read",
] as const;

const ADMIN = [
  ...SUPPORT,
  "users:write",
  "users:certify",
  "wallet:credit",
  "catalogue:write",
  "hosts:write",
  "jobs:write",
  "audit:read",
] as const;

export type Permission = (typeof CUSTOMER | typeof SUPPORT | typeof FINANCE | typeof ADMIN)[number];

export const ROLE_PERMISSIONS: Readonly<Record<Role, ReadonlySet<Permission>>> = {
  customer: new Set(CUSTOMER),
  support: new Set(SUPPORT),
  finance: new Set(FINANCE),
  admin: new Set(ADMIN),
};

export const ALL_PERMISSIONS: readonly Permission[] = [...new Set([...CUSTOMER, ...SUPPORT, ...FINANCE, ...ADMIN])];
