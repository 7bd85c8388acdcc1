import "vitest";

/** What the global set-ups hand to the tests. */
declare module "vitest" {
  interface ProvidedContext {
    admin: { name: string; password: string };
    url: string;
    databaseUrl: string;
  }
}
