import { Hono } from "hono";
import { z } from "zod";
import { hostRoleSchema } from "../../shared/protocol/enrolment.ts";
import { releaseFileNameSchema, versionSchema } from "../../shared/protocol/release.ts";
import { installScript } from "../services/releases/install-script.ts";
import { openReleaseFile } from "../services/releases/open-file.ts";
import { contextOf, type Env, input, route } from "./define.ts";

/** What a machine fetches that is to become a host. Public: it has no credential yet, and nothing here is secret. */
export const installRoutes = new Hono<Env>()
  .get(
    "/install",
    route({
      access: "public",
      summary: "The agent's installer: curl -fsSL …/install | sudo TRUNKLINE_TOKEN=… TRUNKLINE_ROLE=exit bash",
      produces: "text/x-shellscript",
    }),
    input("query", z.object({ role: hostRoleSchema.optional() })),
    async (c) => {
      const script = await installScript(contextOf(c), c.req.valid("query").role);
      return c.body(script, 200, { "content-type": "text/x-shellscript; charset=utf-8", "cache-control": "no-store" });
    },
  )
  .get(
    "/agent/releases/:version/:file",
    route({ access: "public", summary: "A file of an agent's release", produces: "application/octet-stream" }),
    input("param", z.object({ version: versionSchema, file: releaseFileNameSchema })),
    async (c) => {
      const { version, file } = c.req.valid("param");
      // One open range, which is what goes on with a download that was cut off; any other form is answered whole.
      const [, asked] = /^bytes=([0-9]{1,15})-$/.exec(c.req.header("range") ?? "") ?? [];
      const { body, size, sha256, from } = await openReleaseFile(contextOf(c), version, file, Number(asked ?? 0));
      const headers: Record<string, string> = {
        "content-type": "application/octet-stream",
        "content-length": String(size - from),
        "accept-ranges": "bytes",
        etag: `"${sha256}"`,
      };
      if (from === 0) return c.body(body, 200, headers);
      return c.body(body, 206, { ...headers, "content-range": `bytes ${from}-${size - 1}/${size}` });
    },
  );
