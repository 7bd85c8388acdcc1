import { AppError } from "../../../shared/errors.ts";
import type { CaptureStore } from "../../ports/index.ts";

/** For a process that stores no captures: every call says so. */
export function noCaptures(): CaptureStore {
  const refuse = () => {
    throw new AppError("links_elsewhere", "This process stores no captures.");
  };
  return { rawSize: refuse, append: refuse, readRaw: refuse, finish: refuse, open: refuse, remove: refuse };
}
