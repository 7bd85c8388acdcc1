/** The agent as it is, but its state directory is of the next form, which today's agent does not read. */
import { STATE_SCHEMA } from "../../state-schema.ts";

Object.assign(STATE_SCHEMA, { writes: STATE_SCHEMA.writes + 1 });
await import("../../main.ts");
