import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readEnvironment } from "../entry/config.ts";
import { type Embedded, startEmbedded } from "../entry/embedded.ts";
import type { Log } from "../ports/index.ts";
import type { Answer } from "./harness.ts";

export const quietLog: Log = { info() {}, warn() {}, error() {} };

export async function temporaryDirectory(): Promise<{ path: string; remove(): Promise<void> }> {
  const path = await mkdtemp(join(tmpdir(), "trunkline-embedded-"));
  return { path, remove: () => rm(path, { recursive: true, force: true }) };
}

/** The real embedded control plane on a free port. */
export function startOn(dataDir: string, more: Record<string, string> = {}): Promise<Embedded> {
  return startEmbedded(readEnvironment({ PORT: "0", DATA_DIR: dataDir, PORT_QUARANTINE_S: "0", ...more }), quietLog);
}

/** Requests over a real socket, as one caller. */
export function clientOf(url: string, token?: string) {
  return async <T = Record<string, unknown>>(
    method: string,
    path: string,
    body?: unknown,
    headers: Record<string, string> = {},
  ): Promise<Answer<T>> => {
    const response = await fetch(url + path, {
      method,
      headers: {
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
        ...(body === undefined ? {} : { "content-type": "application/json" }),
        ...headers,
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    const json = response.headers.get("content-type")?.includes("json") ?? false;
    return { status: response.status, headers: response.headers, text, body: (json ? JSON.parse(text) : {}) as T };
  };
}
export type Client = ReturnType<typeof clientOf>;

/** Signs in and answers a client of that account. */
export async function signedIn(url: string, name: string, password: string): Promise<Client> {
  const { status, body } = await clientOf(url)<{ token: string }>("POST", "/sessions", { name, password });
  if (status !== 201) throw new Error(`sign-in: ${status}`);
  return clientOf(url, body.token);
}
