import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { resolve } from "node:path";
import { stopChild } from "../lab/process.ts";
import type { AgentsCommand, Answer, ServerCommand } from "./swarm-messages.ts";

type WithoutId<T> = T extends unknown ? Omit<T, "id"> : never;

/** A process of the swarm that is asked things over IPC. It ends with us: node closes its channel. */
export class SwarmProcess<C extends ServerCommand | AgentsCommand> {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
  #nextId = 1;
  url = "";

  private constructor(child: ChildProcess) {
    this.#child = child;
    child.on("message", (message: Answer) => {
      if ("ready" in message) return;
      const waiting = this.#waiting.get(message.id);
      this.#waiting.delete(message.id);
      if (message.error === undefined) waiting?.resolve(message.result);
      else waiting?.reject(new Error(message.error));
    });
    child.on("exit", (code, signal) => {
      for (const { reject } of this.#waiting.values()) reject(new Error(`the process ended (${code ?? signal})`));
    });
  }

  /** Starts one of this folder's programs, or one by its path, and waits until it is ready. */
  static async start<C extends ServerCommand | AgentsCommand>(
    program: string,
    env: Record<string, string> = {},
  ): Promise<SwarmProcess<C>> {
    const child = fork(resolve(import.meta.dirname, program), {
      execArgv: ["--expose-gc"],
      env: { PATH: process.env.PATH ?? "", ...env },
      stdio: ["ignore", "ignore", "inherit", "ipc"],
    });
    const mine = new SwarmProcess<C>(child);
    const first = (await Promise.race([once(child, "message"), once(child, "exit")])) as [Answer | number | null];
    const [message] = first;
    if (message === null || typeof message !== "object" || !("ready" in message))
      throw new Error(`${program} did not start`);
    mine.url = message.url;
    return mine;
  }

  ask<T>(command: WithoutId<C>): Promise<T> {
    const id = this.#nextId++;
    return new Promise<T>((resolve, reject) => {
      this.#waiting.set(id, { resolve: resolve as (value: unknown) => void, reject });
      this.#child.send({ ...command, id });
    });
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  async kill9(): Promise<void> {
    await stopChild(this.#child, "SIGKILL");
  }
}

/** Answers the parent's commands until it goes. */
export function serveParent<C extends { do: string; id: number }>(handle: (command: C) => unknown): void {
  process.on("message", (command: C) => {
    Promise.resolve()
      .then(() => handle(command))
      .then(
        (result) => process.send?.({ id: command.id, result } satisfies Answer),
        (error) => process.send?.({ id: command.id, error: String(error?.stack ?? error) } satisfies Answer),
      );
  });
  process.on("disconnect", () => process.exit(0));
}
