import { spawn } from "node:child_process";
import { once } from "node:events";
import { connect } from "node:net";
import { poll } from "./lab/poll.ts";
import { freePort } from "./sqld.ts";

export type RedisServer = { url: string; port: number; pid: number; stop(): Promise<void> };

/** Starts a Redis that keeps nothing on disk, on a port of 127.0.0.1 (a free one by default). Throws when it is not installed. */
export async function startRedis(port?: number): Promise<RedisServer> {
  const at = port ?? (await freePort());
  const argv = ["--bind", "127.0.0.1", "--port", `${at}`, "--save", "", "--appendonly", "no", "--daemonize", "no"];
  const child = spawn("redis-server", argv, { stdio: "ignore", cwd: "/" });
  await once(child, "spawn").catch(() => {
    throw new Error("redis-server is missing: npm run setup");
  });
  const exited = once(child, "exit");
  await poll(
    () => {
      if (child.exitCode !== null) throw new Error(`redis-server ended (${child.exitCode})`);
      return answers(at);
    },
    { what: `redis-server on port ${at}` },
  );
  return {
    url: `redis://127.0.0.1:${at}`,
    port: at,
    pid: child.pid as number,
    async stop() {
      child.kill("SIGKILL");
      await exited;
    },
  };
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1", () => {
      socket.destroy();
      resolve(true);
    });
    socket.on("error", () => resolve(false));
  });
}
