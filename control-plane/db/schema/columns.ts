import { integer, text } from "drizzle-orm/sqlite-core";
import type { Id, IdPrefix } from "../../../shared/ids.ts";
import type { Fen } from "../../../shared/money.ts";

/** Column kinds that carry our own types, so that a line id can't be stored where a host id belongs. */
export const id = <P extends IdPrefix>(_prefix: P) => text().$type<Id<P>>();
/** Integer fen. */
export const fenColumn = () => integer().$type<Fen>();
/** UTC milliseconds. */
export const instant = () => integer();
export const flag = () => integer({ mode: "boolean" });
export const json = <T>() => text({ mode: "json" }).$type<T>();
