import { sha256Hex } from "../../shared/canonical.ts";
import type { Ports } from "../ports/index.ts";

/** Kinds of bearer secrets. The prefix is part of the token, so that a leaked one can be recognised and found. */
export type TokenKind = "sess" | "api" | "line" | "enr" | "up";

export type FreshToken = { token: string; hash: string; prefix: string };

/** A new secret: 256 random bits. Only its SHA-256 and its readable prefix are stored. */
export async function freshToken(ports: Ports, kind: TokenKind): Promise<FreshToken> {
  const body = base64Url(ports.random.bytes(32));
  const token = `tl_${kind}_${body}`;
  return { token, hash: await sha256Hex(token), prefix: token.slice(0, kind.length + 10) };
}

/** True when a text has the form of a token of that kind. */
export function isToken(text: string, kind: TokenKind): boolean {
  return text.startsWith(`tl_${kind}_`) && /^[A-Za-z0-9_-]{43}$/.test(text.slice(kind.length + 4));
}

export function base64Url(bytes: Uint8Array): string {
  let s = "";
  for (const b of bytes) s += String.fromCharCode(b);
  return btoa(s).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
