import { afterAll, beforeAll } from "vitest";
import { instantCrypto } from "./instant-crypto.ts";
import { Origin } from "./world.ts";

/** The origin that all worlds of a test file are copied from, made before its tests and removed after them. */
export function sharedOrigin(): () => Origin {
  let origin: Origin;
  let slowAgain: () => void;
  beforeAll(async () => {
    origin = await Origin.make();
    slowAgain = instantCrypto();
  });
  afterAll(() => {
    slowAgain?.();
    origin?.remove();
  });
  return () => origin;
}
