import { Hono } from "hono";
import { z } from "zod";
import { listServiceTypes, readCatalogue } from "../services/catalogue/list.ts";
import {
  priceInput,
  productInput,
  putPrice,
  putProduct,
  putRegion,
  putServiceType,
  regionInput,
  serviceTypeId,
  serviceTypeInput,
} from "../services/catalogue/put.ts";
import { priceView, productView, regionView, serviceTypeView } from "../services/catalogue/views.ts";
import { slugSchema } from "../services/views.ts";
import { contextOf, type Env, input, route } from "./define.ts";

const catalogueView = z.object({
  products: z.array(productView),
  regions: z.array(regionView),
  prices: z.array(priceView),
  serviceTypes: z.array(serviceTypeView.pick({ id: true, name: true })),
});

export const catalogueRoutes = new Hono<Env>()
  .get(
    "/catalogue",
    route({ access: "catalogue:read", summary: "All that is sold", answer: catalogueView }),
    async (c) => c.json(await readCatalogue(contextOf(c))),
  )
  .put(
    "/products/:productId",
    route({ access: "catalogue:write", summary: "Put a product", answer: productView }),
    input("param", z.object({ productId: slugSchema })),
    input("json", productInput),
    async (c) => c.json(await putProduct(contextOf(c), c.req.valid("param").productId, c.req.valid("json"))),
  )
  .put(
    "/regions/:regionId",
    route({ access: "catalogue:write", summary: "Put a region", answer: regionView }),
    input("param", z.object({ regionId: slugSchema })),
    input("json", regionInput),
    async (c) => c.json(await putRegion(contextOf(c), c.req.valid("param").regionId, c.req.valid("json"))),
  )
  .put(
    "/products/:productId/regions/:regionId/price",
    route({ access: "catalogue:write", summary: "Put the price of a product in a region", answer: priceView }),
    input("param", z.object({ productId: slugSchema, regionId: slugSchema })),
    input("json", priceInput),
    async (c) => {
      const { productId, regionId } = c.req.valid("param");
      return c.json(await putPrice(contextOf(c), productId, regionId, c.req.valid("json")));
    },
  )
  .get(
    "/service-types",
    route({
      access: "catalogue:write",
      summary: "The whitelists with their networks",
      answer: z.object({ items: z.array(serviceTypeView) }),
    }),
    async (c) => c.json(await listServiceTypes(contextOf(c))),
  )
  .put(
    "/service-types/:serviceTypeId",
    route({ access: "catalogue:write", summary: "Put a whitelist; exits follow in seconds", answer: serviceTypeView }),
    input("param", z.object({ serviceTypeId })),
    input("json", serviceTypeInput),
    async (c) => c.json(await putServiceType(contextOf(c), c.req.valid("param").serviceTypeId, c.req.valid("json"))),
  );
