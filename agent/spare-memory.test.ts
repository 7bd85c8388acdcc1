import { expect, onTestFinished, test, vi } from "vitest";
import { SpareMemory } from "./spare-memory.ts";

test("what a burst of changes leaves behind is collected once, a second after the last of them", () => {
  vi.useFakeTimers();
  const before = globalThis.gc;
  const gc = vi.fn();
  globalThis.gc = gc as never;
  onTestFinished(() => {
    vi.useRealTimers();
    globalThis.gc = before as never;
  });
  const memory = new SpareMemory();
  for (let i = 0; i < 20; i++) {
    memory.changed();
    vi.advanceTimersByTime(500);
  }
  expect(gc).not.toHaveBeenCalled();
  vi.advanceTimersByTime(60_000);
  expect(gc).toHaveBeenCalledTimes(1);
});

test("where node offers no collection there is none, and nothing fails", () => {
  const before = globalThis.gc;
  globalThis.gc = undefined as never;
  onTestFinished(() => {
    globalThis.gc = before as never;
  });
  expect(() => new SpareMemory().changed()).not.toThrow();
});
