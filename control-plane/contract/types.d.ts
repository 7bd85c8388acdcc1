/** What the global set-ups hand to the tests. */
declare module "vitest" {
  interface ProvidedContext {
    admin: { name: string; password: string };
    url: string;
    databaseUrl: string;
  }
}

/** The runtime's module, as far as it is used. Its own types would clash with Node's. */
declare module "cloudflare:workers" {
  export const exports: { default: { fetch(url: string, init: RequestInit): Promise<Response> } };
}

export {};
