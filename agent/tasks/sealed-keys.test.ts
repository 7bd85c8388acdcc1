import { expect, test } from "vitest";
import { openPsk, openUplinkKeys } from "./sealed-keys.ts";
import type { TaskContext } from "./types.ts";

const PSK = Buffer.alloc(32, 7).toString("base64");
const sealed = { ephemeralPublicKey: PSK, nonce: "", box: "" };
const holding = (text: string) => ({ openSealed: () => new TextEncoder().encode(text) }) as unknown as TaskContext;

test("the keys are what was sealed", () => {
  expect(openPsk(sealed, holding(JSON.stringify({ psk: PSK })))).toEqual({ psk: new Uint8Array(32).fill(7) });
  const keys = openUplinkKeys(sealed, holding(JSON.stringify({ psk: PSK, uploadToken: "abc" })));
  expect(keys).toEqual({ psk: new Uint8Array(32).fill(7), uploadToken: "abc" });
});

test.each([
  ["no JSON", "secret-text"],
  ["a short key", JSON.stringify({ psk: "c2VjcmV0LXRleHQ=", uploadToken: "secret-text" })],
  ["no token", JSON.stringify({ psk: PSK })],
  ["a token that would break a header", JSON.stringify({ psk: PSK, uploadToken: "secret-text\r\nx: y" })],
])("%s is refused without repeating it", (_, text) => {
  let error: unknown;
  try {
    openUplinkKeys(sealed, holding(text));
  } catch (e) {
    error = e;
  }
  expect(error).toMatchObject({ code: "bad_sealed" });
  expect(String(error)).not.toMatch(/secret-text|c2VjcmV0/);
});
