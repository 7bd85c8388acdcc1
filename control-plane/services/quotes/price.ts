import { addFen, bps, discountOf, type Fen, negateFen, timesFen } from "../../../shared/money.ts";
import type { ChargeType, prices, QuoteLine } from "../../db/schema/index.ts";

/** Months in one period of each charge type. */
export const MONTHS: Readonly<Record<ChargeType, number>> = { month: 1, quarter: 3, half_year: 6, year: 12 };

export type Priced = { months: number; lines: QuoteLine[]; totalFen: Fen };

/**
 * The price of an order, step by step, each rounded once, half up, in fen:
 * list price → charge-type discount → (account terms, coupon) → floor at zero → times quantity. The lines sum to the total.
 */
export function priceOrder(
  price: Pick<
    typeof prices.$inferSelect,
    "id" | "monthlyFen" | "quarterDiscountBps" | "halfYearDiscountBps" | "yearDiscountBps"
  >,
  order: { chargeType: ChargeType; periods: number; quantity: number },
): Priced {
  const months = MONTHS[order.chargeType] * order.periods;
  const list = timesFen(price.monthlyFen, months);
  const rate = bps(
    { month: 0, quarter: price.quarterDiscountBps, half_year: price.halfYearDiscountBps, year: price.yearDiscountBps }[
      order.chargeType
    ],
  );
  const discount = negateFen(discountOf(list, rate));
  const one = addFen(list, discount);

  const lines: QuoteLine[] = [{ label: `${months} months of ${price.id}`, amountFen: list }];
  if (discount !== 0) lines.push({ label: `${order.chargeType} discount, ${rate / 100}%`, amountFen: discount });
  if (order.quantity > 1)
    lines.push({ label: `${order.quantity - 1} more of the same`, amountFen: timesFen(one, order.quantity - 1) });
  return { months, lines, totalFen: timesFen(one, order.quantity) };
}
