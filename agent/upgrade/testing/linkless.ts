/** The agent as it is, but it hears nothing of its control plane, by whichever way: an upgrade that must not stay. */
import { LinkShell } from "../../link/shell.ts";

const { input } = LinkShell.prototype;
LinkShell.prototype.input = function (one) {
  if (one.type !== "text") input.call(this, one);
};
await import("../../main.ts");
