import {
  AGENT_BUNDLE,
  compareVersions,
  MAX_BUNDLE,
  parseManifest,
  type ReleaseFile,
  type ReleaseManifest,
  releaseSignedBytes,
} from "../../shared/protocol/release.ts";
import { verifier } from "../keys.ts";
import { sentence } from "../log.ts";
import { TaskError } from "../tasks/types.ts";

export interface UpgradeOffer {
  manifest: string;
  signature: string;
  /** The operator means it to be an older version. */
  older: boolean;
}

/** This host, as far as an upgrade cares. */
export interface UpgradeHost {
  /** The version that runs. */
  version: string;
  /** The form its state directory is in. */
  stateForm: number;
  /** Public halves of the release keys it trusts. */
  keys: readonly string[];
}

/**
 * May this host become that release? Whoever asks is the control plane, and that is not enough: the release key decides
 * what code runs here. Throws TaskError: `no_release_key`, `bad_signature`, `bad_manifest`, `older_version`, `state_form`.
 */
export function judgeUpgrade(
  offer: UpgradeOffer,
  host: UpgradeHost,
): { manifest: ReleaseManifest; bundle: ReleaseFile } {
  if (host.keys.length === 0)
    throw new TaskError("no_release_key", "This host pins no release key: run the installer on it again.");
  const bytes = releaseSignedBytes(offer.manifest);
  if (!host.keys.some((key) => verifier(key)(bytes, offer.signature)))
    throw new TaskError("bad_signature", "The release is not signed by a key that this host pins.");
  const manifest = readManifest(offer.manifest);
  const bundle = manifest.files.find((file) => file.name === AGENT_BUNDLE);
  if (bundle === undefined || bundle.size > MAX_BUNDLE)
    throw new TaskError("bad_manifest", `The release has no ${AGENT_BUNDLE} of at most ${MAX_BUNDLE} bytes.`);
  const { version, stateSchema } = manifest;
  if (compareVersions(version, host.version) < 0 && !offer.older)
    throw new TaskError("older_version", `${version} is older than ${host.version}, which runs here.`);
  const { reads, writes } = stateSchema;
  if (host.stateForm < reads || host.stateForm > writes)
    throw new TaskError(
      "state_form",
      `This host's state is in form ${host.stateForm}, and ${version} reads ${reads} to ${writes}: it would not start.`,
    );
  return { manifest, bundle };
}

function readManifest(text: string): ReleaseManifest {
  try {
    return parseManifest(text);
  } catch (error) {
    throw new TaskError("bad_manifest", `The manifest can't be read: ${sentence(error).slice(0, 300)}`);
  }
}
