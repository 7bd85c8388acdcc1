/** The agent as it is, but it writes its state in a newer form and then fails at every start: an upgrade that must not stay. */
import { STATE_SCHEMA } from "../../state-schema.ts";
import { StateStore } from "../../state-store.ts";

Object.assign(STATE_SCHEMA, { writes: STATE_SCHEMA.writes + 1 });
StateStore.prototype.enrolment = () => {
  throw new Error("this version does not start");
};
await import("../../main.ts");
