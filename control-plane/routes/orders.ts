import { Hono } from "hono";
import { z } from "zod";
import { idSchema } from "../../shared/ids.ts";
import { cancelOrder } from "../services/orders/cancel.ts";
import { createOrder, createOrderInput } from "../services/orders/create.ts";
import { payInput, payOrder } from "../services/orders/pay.ts";
import { getOrder, listOrders } from "../services/orders/read.ts";
import { orderView } from "../services/orders/views.ts";
import { createQuote, getQuote, quoteInput, quoteView } from "../services/quotes/create.ts";
import { pageQuery, pageView } from "../services/views.ts";
import { contextOf, type Env, input, route } from "./define.ts";

const orderParam = z.object({ orderId: idSchema("ord") });

export const orderRoutes = new Hono<Env>()
  .post(
    "/quotes",
    route({ access: "orders:write", summary: "Price an order", status: 201, answer: quoteView }),
    input("json", quoteInput),
    async (c) => c.json(await createQuote(contextOf(c), c.req.valid("json")), 201),
  )
  .get(
    "/quotes/:quoteId",
    route({ access: "orders:write", summary: "One of the caller's quotes", answer: quoteView }),
    input("param", z.object({ quoteId: idSchema("quo") })),
    async (c) => c.json(await getQuote(contextOf(c), c.req.valid("param").quoteId)),
  )
  .post(
    "/orders",
    route({
      access: "orders:write",
      summary: "Order what a quote priced",
      status: 201,
      answer: orderView,
      idempotent: true,
    }),
    input("json", createOrderInput),
    async (c) => c.json(await createOrder(contextOf(c), c.req.valid("json")), 201),
  )
  .get(
    "/orders",
    route({ access: "orders:read", summary: "Orders, newest first", answer: pageView(orderView) }),
    input("query", pageQuery),
    async (c) => c.json(await listOrders(contextOf(c), c.req.valid("query"))),
  )
  .get(
    "/orders/:orderId",
    route({ access: "orders:read", summary: "One order", answer: orderView }),
    input("param", orderParam),
    async (c) => c.json(await getOrder(contextOf(c), c.req.valid("param").orderId)),
  )
  .post(
    "/orders/:orderId/pay",
    route({ access: "orders:write", summary: "Pay an order", answer: orderView, idempotent: true }),
    input("param", orderParam),
    input("json", payInput),
    async (c) => c.json(await payOrder(contextOf(c), c.req.valid("param").orderId, c.req.valid("json"))),
  )
  .post(
    "/orders/:orderId/cancel",
    route({ access: "orders:write", summary: "Cancel an order that is not paid", answer: orderView, idempotent: true }),
    input("param", orderParam),
    async (c) => c.json(await cancelOrder(contextOf(c), c.req.valid("param").orderId)),
  );
