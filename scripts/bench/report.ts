import { round } from "./statistics.ts";

/** What a figure must be. `ratio` targets are about value and baseline of the same run. */
export type Target = { of: "value" | "ratio"; atMost: number } | { of: "value" | "ratio"; atLeast: number };

/** One measured figure. */
export interface Figure {
  metric: string;
  value: number;
  unit: string;
  /** The other side of the same run, in the same unit. */
  baseline?: number;
  /** How `ratio` comes from the two: `share` is value ÷ baseline, `faster` is baseline ÷ value. */
  compare?: "share" | "faster";
  target?: Target;
}

/** The line a script reads. Absent things are null, as is what is not a number: JSON has none. */
export function jsonLine(bench: string, figure: Figure): string {
  const numeric = (value: number | undefined) => (value === undefined || !Number.isFinite(value) ? null : round(value));
  return JSON.stringify({
    bench,
    metric: figure.metric,
    value: numeric(figure.value),
    unit: figure.unit,
    baseline: numeric(figure.baseline),
    ratio: numeric(ratioOf(figure)),
  });
}

export function ratioOf(figure: Figure): number | undefined {
  const { value, baseline } = figure;
  if (baseline === undefined || baseline === 0 || value === 0) return undefined;
  return figure.compare === "faster" ? baseline / value : value / baseline;
}

/** Undefined where there is no target. A figure that could not be had misses it. */
export function isMet(figure: Figure): boolean | undefined {
  const { target } = figure;
  if (target === undefined) return undefined;
  const measured = target.of === "value" ? figure.value : ratioOf(figure);
  if (measured === undefined) return false;
  return "atMost" in target ? measured <= target.atMost : measured >= target.atLeast;
}

function targetText(figure: Figure): string {
  const { target } = figure;
  if (target === undefined) return "";
  const bound = "atMost" in target ? `≤ ${target.atMost}` : `≥ ${target.atLeast}`;
  return `${bound} ${target.of === "ratio" ? "×" : figure.unit}${isMet(figure) ? "" : "  MISSED"}`;
}

function numberText(value: number | undefined): string {
  if (value === undefined) return "";
  if (!Number.isFinite(value)) return "?";
  return round(value, Math.abs(value) < 1 ? 2 : 4).toLocaleString("en-US", { maximumFractionDigits: 6 });
}

/** The figures as a table for people. */
export function table(figures: readonly Figure[]): string {
  const rows = figures.map((f) => {
    const ratio = ratioOf(f);
    return [
      f.metric,
      numberText(f.value),
      f.unit,
      numberText(f.baseline),
      ratio === undefined ? "" : `${numberText(ratio)} ×`,
      targetText(f),
    ];
  });
  const head = ["metric", "value", "unit", "baseline", "ratio", "target"];
  const all = [head, ...rows];
  const widths = head.map((_, i) => Math.max(...all.map((row) => (row[i] ?? "").length)));
  const rightAligned = new Set([1, 3, 4]);
  return all
    .map((row) =>
      row
        .map((cell, i) => (rightAligned.has(i) ? cell.padStart(widths[i] ?? 0) : cell.padEnd(widths[i] ?? 0)))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

/** Where a bench says what it does and what it found. With `--json`, standard output has the figures and nothing else. */
export class Report {
  readonly figures: Figure[] = [];
  readonly #bench: string;
  readonly #json: boolean;
  readonly #startedAt = performance.now();

  constructor(bench: string, json: boolean) {
    this.#bench = bench;
    this.#json = json;
  }

  /** What is being done now, for whoever waits. */
  progress(text: string): void {
    const seconds = ((performance.now() - this.#startedAt) / 1000).toFixed(1).padStart(6);
    (this.#json ? process.stderr : process.stdout).write(`${seconds} s  ${text}\n`);
  }

  add(figure: Figure): void {
    this.figures.push(figure);
    if (this.#json) process.stdout.write(`${jsonLine(this.#bench, figure)}\n`);
  }

  end(): void {
    (this.#json ? process.stderr : process.stdout).write(`\n${table(this.figures)}\n`);
  }
}
