import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { UpgradeFiles, type UpgradeRequest } from "../../agent/upgrade/files.ts";

const GATE = join(import.meta.dirname, "gate.sh");
const NEW = "the new agent";
const now = () => Math.floor(Date.now() / 1000);
const sha = (text: string) => createHash("sha256").update(text).digest("hex");

/** A host's two folders, with programs of systemd's that only note that they were called. */
function makeHost() {
  const dir = mkdtempSync(join(tmpdir(), "trunkline-gate-"));
  onTestFinished(() => rmSync(dir, { recursive: true }));
  const [opt, state, bin] = ["opt", "state", "bin"].map((name) => join(dir, name)) as [string, string, string];
  for (const path of [join(opt, "versions/1.0.0"), join(state, "upgrade"), bin]) mkdirSync(path, { recursive: true });
  writeFileSync(join(opt, "versions/1.0.0/agent.mjs"), "the old agent");
  symlinkSync("versions/1.0.0", join(opt, "current"));
  writeFileSync(join(state, "keys.json"), '{"keys":1}\n');
  writeFileSync(join(state, "schema.json"), '{"stateSchema":1}\n');
  const called = join(dir, "called");
  const program = (name: string, more = "") =>
    writeFileSync(join(bin, name), `#!/bin/sh\necho "${name} $*" >>${called}\n${more}`, { mode: 0o755 });
  program("systemd-run");
  program("systemctl");
  program("journalctl", "echo its last words");
  const files = new UpgradeFiles(state);
  return {
    opt,
    state,
    files,
    program,
    /** The first call of a program with these arguments (a pattern of the shell's) fails. */
    failOnce: (name: string, args: string) =>
      program(
        name,
        `case "$*" in ${args}) mkdir ${join(dir, "failed")} 2>/dev/null && exit 1 ;; esac; PATH=/usr/bin:/bin exec ${name} "$@"`,
      ),
    calls: () => (existsSync(called) ? readFileSync(called, "utf8") : ""),
    current: () => readlinkSync(join(opt, "current")).replace("versions/", ""),
    runs: () => readFileSync(join(opt, "current/agent.mjs"), "utf8"),
    versions: () => readdirSync(join(opt, "versions")).sort(),
    /** As the agent leaves it. */
    request(content = NEW, more: Partial<UpgradeRequest> = {}) {
      writeFileSync(files.path("staged.mjs"), content);
      files.writeRequest({ attempt: "tsk_1", version: "1.1.0", sha256: sha(NEW), limit: 60, asked: now(), ...more });
    },
    start: (what = "start", env: Record<string, string> = {}) =>
      spawnSync("setsid", ["sh", GATE, what], {
        encoding: "utf8",
        env: { TRUNKLINE_OPT: opt, TRUNKLINE_STATE: state, TRUNKLINE_PATH: bin, PATH: process.env.PATH ?? "", ...env },
      }),
    /** The machine was started anew, as far as the gate can tell. */
    note(name: string, change: (text: string) => string) {
      writeFileSync(files.path(name), change(readFileSync(files.path(name), "utf8")));
    },
  };
}

test("without a request it changes nothing, and says nothing", () => {
  const host = makeHost();
  const { status, stdout, stderr } = host.start();
  expect([status, stdout, stderr, host.current()]).toEqual([0, "", "", "1.0.0"]);
  rmSync(host.files.dir, { recursive: true });
  expect(host.start().status).toBe(0);
});

test("a request becomes a trial with a timer outside of the agent; committed, it stays, and the version before with it", () => {
  const host = makeHost();
  mkdirSync(join(host.opt, "versions/0.9.0"));
  host.request();
  expect(host.start()).toMatchObject({ status: 0, stderr: "" });
  expect([host.current(), host.runs()]).toEqual(["1.1.0", NEW]);
  expect(host.files.trial()).toMatchObject({ attempt: "tsk_1", from: "1.0.0", to: "1.1.0", limit: 60, starts: 1 });
  expect(host.calls()).toMatch(/systemd-run .*--on-active=60 .*gate deadline/);
  host.files.commit();
  expect(host.start()).toMatchObject({ status: 0, stdout: "" });
  expect([host.current(), host.versions()]).toEqual(["1.1.0", ["1.0.0", "1.1.0"]]);
  expect(readdirSync(host.files.dir)).toEqual([]);
});

test("a version that was started three times goes, and the one before is back with its reason and its last words", () => {
  const host = makeHost();
  host.request();
  for (let starts = 1; starts <= 3; starts++) {
    host.start();
    expect([host.current(), host.files.trial()?.starts]).toEqual(["1.1.0", starts]);
  }
  expect(host.start()).toMatchObject({ status: 0, stderr: "" });
  expect([host.runs(), host.files.trial()]).toEqual(["the old agent", undefined]);
  expect(host.files.returned()).toEqual({
    attempt: "tsk_1",
    from: "1.0.0",
    to: "1.1.0",
    reason: "it was started 3 times and did not stay",
    lastWords: "its last words",
  });
  host.start();
  expect(host.versions()).toEqual(["1.0.0"]);
  expect(host.files.returned()?.attempt).toBe("tsk_1");
});

test("when its time is up it is killed, and goes at the next start; before, the timer does nothing", () => {
  const host = makeHost();
  host.request();
  host.start();
  host.start("deadline");
  expect(host.calls()).not.toContain("systemctl kill");
  host.note("trial", (text) => text.replace(/^until=.*$/m, "until=1"));
  host.start("deadline");
  expect(host.calls()).toContain("systemctl kill --kill-who=main --signal=SIGKILL trunkline-agent.service");
  host.start();
  expect([host.current(), host.files.returned()?.reason]).toEqual([
    "1.0.0",
    "it was not linked, in sync and confirmed within 60 s",
  ]);
  host.start("deadline");
  expect(host.calls().match(/systemctl kill/g)).toHaveLength(1);
});

test("a note of the trial that can't be read brings the version before back", () => {
  const host = makeHost();
  host.request();
  host.start();
  host.note("trial", () => "garbage\n");
  expect(host.start().status).toBe(0);
  expect([host.runs(), host.files.trial()]).toEqual(["the old agent", undefined]);
});

test("after a reboot the trial goes on with its time anew, and counts as started once more", () => {
  const host = makeHost();
  host.request();
  host.start();
  host.note("trial", (text) => text.replace(/^boot=.*$/m, "boot=another").replace(/^until=.*$/m, "until=1"));
  host.start();
  expect([host.current(), host.files.trial()?.starts]).toEqual(["1.1.0", 2]);
  expect(host.files.trial()?.until).toBeGreaterThan(1);
});

/** Each call by which the note of a trial is made: what fails, the program, its arguments. */
const NOTING = [
  ["can't be written", "cat", "''"],
  ["can't be made durable", "sync", "*/trial.new"],
  ["can't be put in its place", "mv", "*/trial"],
  ["is in its place, and its folder can't be made durable", "sync", "*/upgrade"],
] as const;

test.each<[string, (host: ReturnType<typeof makeHost>) => void, RegExp]>([
  ["other bytes than were signed", (host) => host.request("something else"), /SHA-256 differs/],
  ["a version that is a path", (host) => host.request(NEW, { version: "../../etc" }), /can't be read/],
  ["a version that is an option", (host) => host.request(NEW, { version: "-rf" }), /can't be read/],
  ["the version in use", (host) => host.request(NEW, { version: "1.0.0" }), /in use already/],
  ["a limit that is no number", (host) => host.request(NEW, { limit: Number.NaN }), /can't be read/],
  ["a request that lay there for an hour", (host) => host.request(NEW, { asked: now() - 3600 }), /too long ago/],
  ["one of a clock that was set since", (host) => host.request(NEW, { asked: now() + 86_400 }), /too long ago/],
  ["one whose time is no number", (host) => host.request(NEW, { asked: Number.NaN }), /too long ago/],
  [
    "one that comes while the installer brings a version",
    (host) => {
      host.request();
      writeFileSync(join(host.opt, "installing"), "");
    },
    /the installer/,
  ],
  [
    "a disk that takes no version",
    (host) => {
      host.request();
      host.program("sync", `case "$*" in *versions*) exit 1 ;; esac; PATH=/usr/bin:/bin exec sync "$@"`);
    },
    /could not be put into/,
  ],
  [
    "no timer to be had",
    (host) => {
      host.request();
      host.program("systemd-run", "exit 1");
    },
    /no timer/,
  ],
  ...NOTING.map(([what, name, args]): [string, (host: ReturnType<typeof makeHost>) => void, RegExp] => [
    `a trial whose note ${what}`,
    (host) => {
      host.request();
      host.failOnce(name, args);
    },
    /could not be noted down/,
  ]),
])("%s: refused, told, and the version in use stays", (_name, prepare, reason) => {
  const host = makeHost();
  prepare(host);
  expect(host.start().status).toBe(0);
  expect([host.current(), host.runs(), host.versions().filter((v) => v !== "1.1.0")]).toEqual([
    "1.0.0",
    "the old agent",
    ["1.0.0"],
  ]);
  expect(host.files.returned()).toMatchObject({ attempt: "tsk_1", reason: expect.stringMatching(reason) });
  expect([host.files.trial(), host.files.request()]).toEqual([undefined, undefined]);
  // Nothing of it comes back with the next start.
  host.start();
  expect([host.current(), host.files.trial(), host.versions()]).toEqual(["1.0.0", undefined, ["1.0.0"]]);
});

test("a refused trial whose note can't be taken away keeps the copy of the state, which it needs to be given back", () => {
  const host = makeHost();
  host.request();
  host.failOnce("sync", "*/upgrade");
  host.program("rm", `case "$*" in *upgrade/trial*) exit 1 ;; esac; PATH=/usr/bin:/bin exec rm "$@"`);
  host.start();
  expect([host.current(), host.files.trial()?.to]).toEqual(["1.0.0", "1.1.0"]);
  expect(readFileSync(join(host.files.path("before"), "schema.json"), "utf8")).toContain('"stateSchema":1');
});

test("a request of an agent that did not yet say when it asked becomes a trial", () => {
  const host = makeHost();
  host.request();
  host.note("request", (text) => text.replace(/^asked=.*\n/m, ""));
  host.start();
  expect([host.current(), host.files.trial()?.to]).toEqual(["1.1.0", "1.1.0"]);
});

test("a state directory that the new version brought into another form is given back as it was; in the same form it is kept", () => {
  for (const form of [1, 2]) {
    const host = makeHost();
    host.request();
    host.start();
    writeFileSync(join(host.state, "keys.json"), '{"keys":2}\n');
    writeFileSync(join(host.state, "schema.json"), `{"stateSchema":${form}}\n`);
    host.note("trial", (text) => text.replace(/^until=.*$/m, "until=1"));
    host.start();
    expect(host.current()).toBe("1.0.0");
    expect(readFileSync(join(host.state, "schema.json"), "utf8")).toContain('"stateSchema":1');
    expect(readFileSync(join(host.state, "keys.json"), "utf8")).toContain(form === 1 ? '{"keys":2}' : '{"keys":1}');
    expect(existsSync(host.files.path("before"))).toBe(false);
  }
});

test("cut off by the power at any step, the next start brings it to its end: the new version on trial, or the old one back", () => {
  let cuts = 0;
  for (const way of ["begin", "give back"] as const)
    for (let nth = 1; ; nth++) {
      const host = makeHost();
      host.request();
      if (way === "give back") {
        host.start();
        writeFileSync(join(host.state, "schema.json"), '{"stateSchema":2}\n');
        host.note("trial", (text) => text.replace(/^until=.*$/m, "until=1"));
      }
      // All of it dies before the nth program of those that write.
      const counter = join(host.opt, "count");
      for (const name of ["sync", "mv", "ln", "cp", "rm"])
        host.program(
          name,
          `n=$(cat ${counter} 2>/dev/null || echo 0); n=$((n + 1)); echo $n >${counter}
[ "$n" != "\${DIE_AT:-0}" ] || { kill -9 0; }
PATH=/usr/bin:/bin exec ${name} "$@"`,
        );
      const cut = host.start("start", { DIE_AT: String(nth) });
      // Whatever the moment, there is a whole version to start.
      expect(["the old agent", NEW]).toContain(host.runs());
      if (cut.signal === null) break;
      cuts++;
      const cutIn = existsSync(host.files.path("trial")) ? readFileSync(host.files.path("trial"), "utf8") : "";
      if (way === "give back" && cutIn !== "") {
        // The power was gone, so it is another boot, in which the trial would have its time anew.
        host.note("trial", (text) => text.replace(/^boot=.*$/m, "boot=another"));
        host.start();
        // Not yet given up when it was cut off: then it is on trial again, and is given up later.
        if (/^ended=$/m.test(cutIn)) {
          expect([nth, host.runs()]).toEqual([nth, NEW]);
          host.note("trial", (text) => text.replace(/^until=.*$/m, "until=1"));
        }
      }
      host.start();
      if (way === "begin") {
        expect([nth, host.runs(), host.files.trial()?.to]).toEqual([nth, NEW, "1.1.0"]);
        expect(host.files.request()).toBeUndefined();
      } else {
        // Cut off after everything was done, there is nothing left to do.
        expect([nth, host.runs(), host.files.trial()]).toEqual([nth, "the old agent", undefined]);
        expect(readFileSync(join(host.state, "schema.json"), "utf8")).toContain('"stateSchema":1');
        expect(host.files.returned()).toMatchObject({ attempt: "tsk_1", to: "1.1.0" });
      }
    }
  process.stdout.write(`gate: cut off at ${cuts} steps\n`);
  expect(cuts).toBeGreaterThan(20);
});

test("while the installer brings a version no start of the agent removes it; what an installer left behind holds nothing up for ever", () => {
  const host = makeHost();
  const marker = join(host.opt, "installing");
  mkdirSync(join(host.opt, "versions/1.2.0"));
  writeFileSync(marker, "");
  host.start();
  expect(host.versions()).toEqual(["1.0.0", "1.2.0"]);
  const longAgo = new Date(Date.now() - 2 * 3_600_000);
  utimesSync(marker, longAgo, longAgo);
  host.start();
  expect(host.versions()).toEqual(["1.0.0"]);
});

test("with no version in use that could start, none is removed", () => {
  const host = makeHost();
  mkdirSync(join(host.opt, "versions/0.9.0"));
  rmSync(join(host.opt, "versions/1.0.0/agent.mjs"));
  host.start();
  expect(host.versions()).toEqual(["0.9.0", "1.0.0"]);
});
