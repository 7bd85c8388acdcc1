/** The agent as it is, but the control plane never hears what it applied: an upgrade that must not stay. */
import { LinkShell } from "../../link/shell.ts";

const { input } = LinkShell.prototype;
LinkShell.prototype.input = function (one) {
  if (one.type !== "report") input.call(this, one);
};
await import("../../main.ts");
