import { getPriority, setPriority } from "node:os";
import { expect, onTestFinished, test } from "vitest";
import { createExec, DATA_PATH_NICE, ExecError } from "./exec.ts";
import { allPids, argvOf } from "./proc.ts";

const exec = createExec();
const running = (argument: string) => allPids().filter((pid) => argvOf(pid)[1] === argument);

test("what is detached has its priority whatever ours is; a program that is not there is told at once", async () => {
  const before = getPriority();
  onTestFinished(() => setPriority(before));
  for (const ours of [before, before + 5]) {
    setPriority(ours);
    const pid = await exec.detach(["sleep", "86399"]);
    onTestFinished(() => void process.kill(pid));
    await expect.poll(() => argvOf(pid)).toEqual(["sleep", "86399"]);
    expect(getPriority(pid)).toBe(DATA_PATH_NICE);
  }
  for (const program of ["trunkline-no-such-program", "/usr/bin/trunkline-no-such-program"])
    await expect(exec.detach([program])).rejects.toThrow(/could not start/);
});

test.each([
  ["its signal", (signal: AbortSignal) => ({ signal }), "no longer wanted"],
  ["its time", () => ({ timeoutMs: 300 }), "no end after 300 ms"],
])(
  "ended by %s, a command that starts others takes them with it and tells what it wrote until then",
  async (name, how, why) => {
    const seconds = name === "its time" ? "86397" : "86398";
    const stop = new AbortController();
    const script = `echo begun; sleep ${seconds} & sleep ${seconds}`;
    const run = exec.run(["sh", "-c", script], { ...how(stop.signal), parent: true }).catch((error: unknown) => error);
    await expect.poll(() => running(seconds), { timeout: 10_000 }).toHaveLength(2);
    stop.abort();
    const error = (await run) as ExecError;
    expect(error).toBeInstanceOf(ExecError);
    expect([error.message.includes(why), error.stdout]).toEqual([true, "begun\n"]);
    await expect.poll(() => running(seconds)).toEqual([]);
  },
);
