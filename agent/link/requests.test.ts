import { createHash, randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { expect, onTestFinished, test } from "vitest";
import { createFakeStore } from "../tasks/testing/fake-store.ts";
import { Upload } from "../tasks/upload.ts";
import { fetchBundle } from "../upgrade/fetch-bundle.ts";
import type { Endpoint } from "./endpoints.ts";
import { Requests } from "./requests.ts";
import { startThrough } from "./testing/through.ts";

/** What is not the link itself goes the link's way: a host whose direct way is blocked fetches and uploads through another host. */

const forever = new AbortController().signal;
/** Nothing listens there: the direct way is refused at once. */
const URL_BLOCKED = "https://control.example:1";

async function listen(server: ReturnType<typeof createServer>): Promise<string> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

test("an upgrade is fetched through the pass-through when the direct way is blocked, from the control plane's own name", async () => {
  const bytes = randomBytes(300_000);
  const through = await startThrough(await listen(createServer((_, response) => response.end(bytes))));
  onTestFinished(through.close);
  const dir = mkdtempSync(join(tmpdir(), "trunkline-way-"));
  onTestFinished(() => rmSync(dir, { recursive: true }));
  const sha256 = createHash("sha256").update(bytes).digest("hex");
  const fetch = (way: Endpoint) => {
    const file = { name: "agent.mjs", size: bytes.length, sha256 };
    const options = { way: () => way, path: "/agent.mjs", file, target: join(dir, "x"), signal: forever };
    return fetchBundle({ ...options, backoffMs: 1 }).then(
      () => "ok",
      (error: Error) => error.message,
    );
  };
  expect(await fetch({ url: URL_BLOCKED })).toMatch(/could not be fetched/);
  expect(await fetch({ url: URL_BLOCKED, via: through.way })).toBe("ok");
  expect(readFileSync(join(dir, "x")).equals(bytes)).toBe(true);
  expect(through.names).toEqual(["control.example"]);
  // Somebody between who has a certificate that is trusted, but not of this name.
  expect(await fetch({ url: "https://elsewhere.example:1", via: through.way })).toMatch(/is not in the cert/);
});

test("a capture is uploaded through the pass-through when the direct way is blocked, on one connection", async () => {
  const store = createFakeStore();
  const through = await startThrough(await listen(store.server));
  onTestFinished(through.close);
  const upload = new Upload({
    ...{ way: () => ({ url: URL_BLOCKED, via: through.way }), path: "/up/1", token: "secret" },
    signal: AbortSignal.timeout(20_000),
  });
  const bytes = randomBytes(1_500_000);
  for (let at = 0; at < bytes.length; at += 30_000) await upload.write(bytes.subarray(at, at + 30_000));
  expect(await upload.finish()).toBe(bytes.length);
  expect(store.stored("/up/1").equals(bytes)).toBe(true);
  expect(store.puts.length).toBeGreaterThan(4);
  expect(through.names).toEqual(["control.example"]);
});

test("each request goes the way that there is then, and a connection of another way is not used again", async () => {
  const asked: string[] = [];
  const serve = (name: string) =>
    listen(
      createServer((request, response) => {
        asked.push(`${name} ${request.headers.host} ${request.url}`);
        response.end(name);
      }),
    );
  const [one, two] = [await serve("one"), await serve("two")];
  const port = Number(new URL(two).port);
  let way: Endpoint = { url: `${one}/base/` };
  const requests = new Requests(() => way);
  onTestFinished(() => requests.close());
  const get = async () => text(await requests.send("/x?y=1", { signal: forever }));
  expect(await get()).toBe("one");
  way = { url: way.url, via: { hostId: "hst_00000000000000000000000000", address: "127.0.0.1", port } };
  expect(await get()).toBe("two");
  way = { url: way.url };
  expect(await get()).toBe("one");
  const host = new URL(one).host;
  expect(asked).toEqual(["one", "two", "one"].map((name) => `${name} ${host} /base/x?y=1`));
});

test("an answer that is none ends the wait for it; after the close nothing is sent", async () => {
  let asked = 0;
  const server = createServer(() => asked++);
  server.on("connection", (socket) =>
    socket.once("data", () =>
      socket.write("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
    ),
  );
  const url = await listen(server);
  const requests = new Requests(() => ({ url }));
  const end = (signal: AbortSignal) => requests.send("/", { signal }).then(String, (error: Error) => error.message);
  expect(await end(forever)).toBe("the connection was closed without an answer");
  expect(await end(AbortSignal.abort(new Error("no more time")))).toBe("no more time");
  requests.close();
  const before = asked;
  expect(await end(forever)).toBe("no request is sent any more");
  expect(asked).toBe(before);
});
