import { AppError } from "../../../shared/errors.ts";
import type { HostRole } from "../../../shared/protocol/enrolment.ts";
import type { Context } from "../context.ts";

const TEMPLATE = "install.sh";

/**
 * The installer of the newest agent, for this control plane: a shell script that names each file with its SHA-256. With
 * a role, TRUNKLINE_ROLE need not be given. Throws `not_found` where no agent was built.
 */
export async function installScript(ctx: Context, role: HostRole | undefined): Promise<string> {
  const { releases, settings } = ctx.ports;
  const release = await releases.latest();
  const template = release && (await releases.open(release.version, TEMPLATE));
  if (release === undefined || template === undefined)
    throw new AppError("not_found", "No agent was built for this control plane: npm run build:agent");
  const values: Record<string, string> = {
    URL: settings.publicUrl,
    VERSION: release.version,
    ROLE: role ?? "",
    RELEASE_KEYS: (await releases.keys()).join("\n"),
    FILES: release.files.map(({ name, sha256 }) => `${name} ${sha256}`).join("\n"),
  };
  const text = await new Response(template.body).text();
  return text.replaceAll(/'@([A-Z_]+)@'/g, (whole, name: string) => {
    const value = values[name];
    return value === undefined ? whole : shellQuoted(value);
  });
}

/** One word for a shell, whatever is in it. */
function shellQuoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
