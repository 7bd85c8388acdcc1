import { afterEach, expect, test, vi } from "vitest";
import worker from "./worker.ts";

afterEach(() => {
  vi.restoreAllMocks();
});

test("a worker that is not configured says which variable in its log, and to the caller only that it is not ready", async () => {
  const lines: string[] = [];
  vi.spyOn(console, "log").mockImplementation((line) => lines.push(line));
  const request = new Request("https://api.example/healthz");
  const ctx = { waitUntil: () => {} };
  const bindings = { DATABASE_URL: "", PORT: "many" };
  const response = await worker.fetch(request, bindings, ctx);
  expect(response.status).toBe(503);
  expect(await response.json()).toMatchObject({ code: "overloaded", status: 503 });
  expect(response.headers.get("content-type")).toBe("application/problem+json");
  const { message } = JSON.parse(lines.join("")).error;
  expect(message).toContain("DATABASE_URL: is not set");
  expect(message).toContain("SIGNING_KEY: is not set");
  expect(message).toContain("PORT: ");

  // Corrected, it serves: a failure is not remembered.
  const good = { DATABASE_URL: "http://127.0.0.1:9", SIGNING_KEY: Buffer.alloc(32).toString("base64") };
  expect((await worker.fetch(request, good, ctx)).status).toBe(200);
});
