import { expect, test } from "vitest";
import { readEnvironment, settingsOf } from "./config.ts";

test("without any variable the configuration is the documented default", () => {
  const env = readEnvironment({ PATH: "/usr/bin", PORT: "" });
  expect(env).toMatchObject({ HOST: "127.0.0.1", PORT: 8787, DATA_DIR: "./data", ALLOWED_ORIGINS: [] });
  expect(settingsOf(env, "https://example.com/")).toMatchObject({
    orderPayTimeoutMs: 900_000,
    sessionLifetimeMs: 2_592_000_000,
    publicUrl: "https://example.com",
  });
});

test("the error of a wrong configuration names every variable that is wrong, and no value", () => {
  const wrong = {
    PORT: "eighty",
    PUBLIC_URL: "ftp://example.com",
    SIGNING_KEY: "c2VjcmV0",
    ORDER_PAY_TIMEOUT_S: "0",
    PORT_QUARANTINE_S: "-1",
    SIGN_IN_LIMIT: "1.5",
  };
  let message = "";
  try {
    readEnvironment(wrong);
  } catch (error) {
    message = (error as Error).message;
  }
  for (const name of Object.keys(wrong)) expect(message).toContain(name);
  expect(message).not.toContain("c2VjcmV0");
});

test("lists are split at commas, and blanks left out", () => {
  expect(readEnvironment({ ALLOWED_ORIGINS: " https://a.example, ,https://b.example" }).ALLOWED_ORIGINS).toEqual([
    "https://a.example",
    "https://b.example",
  ]);
});
