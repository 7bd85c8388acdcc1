/** The agent as it is, but it stands still before it is ready and hears no signal: an upgrade that must not stay. */
if (process.argv.includes("run")) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
await import("../../main.ts");

export {};
