import { eq } from "drizzle-orm";
import { renderSVG } from "uqr";
import { AppError } from "../../../shared/errors.ts";
import type { Id } from "../../../shared/ids.ts";
import * as t from "../../db/schema/index.ts";
import type { Ports } from "../../ports/index.ts";
import type { Context } from "../context.ts";
import { TUNNEL } from "../hosts/desired-state.ts";
import { requireConnection } from "./read.ts";

/** What a WireGuard client needs, but for its own private key. */
export type ClientConfiguration = {
  address: string;
  dns: string[];
  mtu: number;
  serverPublicKey: string;
  endpoint: string;
  allowedIps: string[];
  persistentKeepalive: number;
};

/** Stands where the client puts its own key: we never had it. */
const OWN_KEY = "<your private key>";

/** The configuration of an active connection. Throws `conflict` when it is closed. */
export async function clientConfiguration(ports: Ports, connectionId: Id<"con">) {
  const [row] = await ports.db.read
    .select({ connection: t.connections, pair: t.pairs, serverPublicKey: t.hosts.wireguardPublicKey, mtu: t.lines.mtu })
    .from(t.connections)
    .innerJoin(t.lines, eq(t.lines.id, t.connections.lineId))
    .innerJoin(t.pairs, eq(t.pairs.id, t.connections.pairId))
    .innerJoin(t.hosts, eq(t.hosts.id, t.connections.exitHostId))
    .where(eq(t.connections.id, connectionId));
  if (row === undefined || row.serverPublicKey === null) throw new AppError("not_found");
  if (row.connection.state !== "active") throw new AppError("conflict", "The connection is closed; open a new one.");
  const configuration: ClientConfiguration = {
    address: TUNNEL.clientAddress,
    dns: [...ports.settings.clientDns],
    mtu: row.mtu ?? TUNNEL.mtu,
    serverPublicKey: row.serverPublicKey,
    endpoint: `${row.pair.boardingAddress}:${row.connection.port}`,
    allowedIps: ["0.0.0.0/0"],
    persistentKeepalive: TUNNEL.clientKeepaliveS,
  };
  return {
    configuration,
    /** All its forms; with the private key only where the caller just made it. */
    render(privateKey?: string) {
      const conf = toConf(configuration, privateKey ?? OWN_KEY);
      const qrSvg = renderSVG(conf);
      return { configuration, conf, qrSvg, ...(privateKey === undefined ? {} : { privateKey }) };
    },
  };
}

/** The same for a caller who may use the connection; the client's private key is left for it to fill in. */
export async function readConfiguration(ctx: Context, id: Id<"con">) {
  const connection = await requireConnection(ctx, id);
  return (await clientConfiguration(ctx.ports, connection.id)).render();
}

/** The file every WireGuard client reads (wg-quick(8)). */
export function toConf(c: ClientConfiguration, privateKey: string): string {
  return [
    "[Interface]",
    `PrivateKey = ${privateKey}`,
    `Address = ${c.address}`,
    ...(c.dns.length > 0 ? [`DNS = ${c.dns.join(", ")}`] : []),
    `MTU = ${c.mtu}`,
    "",
    "[Peer]",
    `PublicKey = ${c.serverPublicKey}`,
    `Endpoint = ${c.endpoint}`,
    `AllowedIPs = ${c.allowedIps.join(", ")}`,
    `PersistentKeepalive = ${c.persistentKeepalive}`,
    "",
  ].join("\n");
}
