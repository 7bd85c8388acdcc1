import { z } from "zod";
import { LINE_TYPES } from "../../db/schema/index.ts";

export const productView = z.object({
  id: z.string(),
  name: z.string(),
  lineType: z.enum(LINE_TYPES),
  onSale: z.boolean(),
});
export const regionView = z.object({
  id: z.string(),
  name: z.string(),
  saleable: z.boolean(),
  sourceRegionId: z.string().nullable(),
});
export const priceView = z.object({
  id: z.string(),
  productId: z.string(),
  regionId: z.string(),
  monthlyFen: z.number().int(),
  quarterDiscountBps: z.number().int(),
  halfYearDiscountBps: z.number().int(),
  yearDiscountBps: z.number().int(),
  onSale: z.boolean(),
});
export const serviceTypeView = z.object({
  id: z.string(),
  name: z.string(),
  cidrs: z.array(z.string()),
  domains: z.array(z.string()),
});

/** A row less its creation time: what the catalogue shows. */
export function viewRow<R extends { createdAt: number }>(row: R): Omit<R, "createdAt"> {
  const { createdAt: _, ...rest } = row;
  return rest;
}
