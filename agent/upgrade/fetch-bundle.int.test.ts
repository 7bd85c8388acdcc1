import { createHash, randomBytes } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { TaskError } from "../tasks/types.ts";
import { fetchBundle } from "./fetch-bundle.ts";

const BYTES = randomBytes(300_000);
const file = { name: "agent.mjs", size: BYTES.length, sha256: createHash("sha256").update(BYTES).digest("hex") };
const forever = new AbortController().signal;

type Answer = (request: IncomingMessage, response: ServerResponse, from: number, nth: number) => void;

/** Fetches from a server that answers so; what came of it, and where each request began. */
async function fetchFrom(answer: Answer, signal = forever) {
  const asked: number[] = [];
  const server = createServer((request, response) => {
    const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
    asked.push(from);
    answer(request, response, from, asked.length);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const dir = mkdtempSync(join(tmpdir(), "trunkline-fetch-"));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
    rmSync(dir, { recursive: true });
  });
  const target = join(dir, "partial.mjs");
  const way = () => ({ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` });
  const code = await fetchBundle({ way, path: "/agent.mjs", file, target, signal, backoffMs: 1 }).then(
    () => "ok",
    (error) => (error instanceof TaskError ? error.code : `thrown: ${error}`),
  );
  return { code, asked, bytes: existsSync(target) ? readFileSync(target) : undefined };
}

const part = (response: ServerResponse, from: number, to = BYTES.length) => {
  response.writeHead(from > 0 ? 206 : 200, { "content-length": BYTES.length - from });
  response.write(BYTES.subarray(from, to), () => (to < BYTES.length ? response.destroy() : response.end()));
};

test("a download that is cut off again and again goes on where it was, and is whole in the end", async () => {
  const { code, asked, bytes } = await fetchFrom((_, response, from) =>
    part(response, from, Math.min(BYTES.length, from + 65_536)),
  );
  expect(code).toBe("ok");
  expect(bytes?.equals(BYTES)).toBe(true);
  expect(asked.length).toBeGreaterThanOrEqual(5);
  expect(asked.every((from, i) => i === 0 || from > (asked[i - 1] ?? 0))).toBe(true);
});

test("a connection that breaks after the last byte has brought all of it: no more is asked for", async () => {
  const { code, asked, bytes } = await fetchFrom((_, response, from) => {
    // No length told: only the end that never comes would say that it is whole.
    if (from === 0) response.write(BYTES, () => response.destroy());
    else response.writeHead(from < BYTES.length ? 206 : 416).end(BYTES.subarray(from));
  });
  expect([code, asked.includes(BYTES.length), bytes?.equals(BYTES)]).toEqual(["ok", false, true]);
});

test("a server that can't resume sends all of it again", async () => {
  const { code, bytes } = await fetchFrom((_, response, __, nth) => {
    response.writeHead(200, { "content-length": BYTES.length });
    if (nth === 1) response.write(BYTES.subarray(0, 1000), () => response.destroy());
    else response.end(BYTES);
  });
  expect([code, bytes?.equals(BYTES)]).toEqual(["ok", true]);
});

test.each<[string, string, Answer]>([
  ["another file of the same size", "wrong_file", (_, response) => response.end(randomBytes(BYTES.length))],
  ["more than was signed", "wrong_file", (_, response) => response.end(Buffer.concat([BYTES, BYTES]))],
  ["a file that ends early, each time", "download_failed", (_, response) => response.end(BYTES.subarray(0, 5000))],
  ["a server that drops every connection", "download_failed", (request) => request.socket.destroy()],
  ["one that has no such file", "download_failed", (_, response) => response.writeHead(404).end()],
  ["one that sends elsewhere", "download_failed", (_, response) => response.writeHead(302, { location: "/x" }).end()],
])("%s: %s, and nothing is left on the disk", async (_name, expected, answer) => {
  const { code, bytes, asked } = await fetchFrom(answer);
  expect([code, bytes]).toEqual([expected, undefined]);
  expect(asked.length).toBeLessThanOrEqual(7);
});

test("it ends when its time is up", async () => {
  const { code, bytes } = await fetchFrom(
    (_, response) => void response.writeHead(200).write("x"),
    AbortSignal.timeout(100),
  );
  expect([code, bytes]).toEqual(["download_failed", undefined]);
});
