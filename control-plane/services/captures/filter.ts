import { filterProblem } from "../../../shared/capture-filter.ts";
import { AppError } from "../../../shared/errors.ts";

/** Checks a capture filter before it goes to a host, where tcpdump itself has the last word. Throws `bad_filter`, saying why. */
export function checkFilter(filter: string): string {
  const text = filter.trim();
  const problem = filterProblem(text) ?? bracketProblem(text);
  if (problem !== undefined) throw new AppError("bad_filter", problem);
  return text;
}

/** Closing more brackets than were opened would end those that our own exclusions stand behind. */
function bracketProblem(filter: string): string | undefined {
  let depth = 0;
  for (const c of filter) {
    if (c === "(") depth++;
    if (c === ")" && --depth < 0) return "a bracket closes that was not opened";
  }
  return depth === 0 ? undefined : "a bracket is not closed";
}
