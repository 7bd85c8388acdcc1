/** The agent as it is, but it looks for its control plane where there is none: an upgrade that must not stay. */
import { LinkSession } from "../../link/session.ts";

Object.defineProperty(LinkSession.prototype, "endpoint", { get: () => "http://192.0.2.1:9" });
await import("../../main.ts");
