/** The runtime's module, as far as it is used. Cloudflare's own types would clash with Node's. */
declare module "cloudflare:workers" {
  export const exports: { default: { fetch(url: string, init: RequestInit): Promise<Response> } };
}
