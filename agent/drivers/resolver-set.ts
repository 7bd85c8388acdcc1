import { EXIT_TABLE } from "./whitelist-plan.ts";

/** An address that a listed name stands for, and how many seconds it stays without a packet or an answer. */
export interface NamedAddress {
  address: string;
  expiresS: number;
}

/** Elements of a set with timeouts out of nft's JSON: `{elem: {val, expires}}` each. */
export function readAddresses(elements: readonly unknown[]): NamedAddress[] {
  return elements.flatMap((element) => {
    if (typeof element === "string") return [{ address: element, expiresS: 0 }];
    const { val, expires } = (element as { elem?: { val?: unknown; expires?: number } }).elem ?? {};
    return typeof val === "string" ? [{ address: val, expiresS: expires ?? 0 }] : [];
  });
}

/** Commands that put addresses into a set, for the set's whole timeout. */
export function addAddresses(set: string, addresses: readonly string[]): string {
  return addresses.length === 0 ? "" : `add element ip ${EXIT_TABLE} ${set} { ${addresses.join(", ")} }\n`;
}

export function removeAddresses(set: string, addresses: readonly string[]): string {
  return addresses.length === 0 ? "" : `delete element ip ${EXIT_TABLE} ${set} { ${addresses.join(", ")} }\n`;
}
