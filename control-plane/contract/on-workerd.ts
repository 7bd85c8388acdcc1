import { exports } from "cloudflare:workers";
import { inject } from "vitest";
import { apiContract } from "./api.contract.ts";

/** In workerd: the worker itself, on a libSQL server. The address is what the network would put there. */
apiContract({
  admin: inject("admin"),
  fetch: (path, init) =>
    exports.default.fetch(`https://api.example${path}`, {
      ...init,
      headers: { ...init.headers, "cf-connecting-ip": "192.0.2.1" },
    }),
});
