export * from "./accounts.ts";
export * from "./network.ts";
export * from "./orders.ts";
export * from "./rollouts.ts";
export * from "./tasks.ts";
export * from "./usage.ts";
