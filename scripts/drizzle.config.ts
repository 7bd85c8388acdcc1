import { defineConfig } from "drizzle-kit";

/** `npm run db:generate` compares the schema with the migrations and writes what is missing. */
export default defineConfig({
  dialect: "sqlite",
  schema: "./control-plane/db/schema/*.ts",
  out: "./migrations",
  casing: "snake_case",
});
