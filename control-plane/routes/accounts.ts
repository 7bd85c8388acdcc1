import { Hono } from "hono";
import { deleteCookie, setCookie } from "hono/cookie";
import { z } from "zod";
import { idSchema } from "../../shared/ids.ts";
import {
  apiTokenView,
  createApiToken,
  createApiTokenInput,
  listApiTokens,
  revokeApiToken,
} from "../services/accounts/api-tokens.ts";
import { changePassword, changePasswordInput } from "../services/accounts/change-password.ts";
import { createUser, createUserInput } from "../services/accounts/create-user.ts";
import { signIn, signInInput } from "../services/accounts/sign-in.ts";
import { signOut } from "../services/accounts/sign-out.ts";
import { certifyInput, certifyUser, getMe, getUser, listUsers } from "../services/accounts/users.ts";
import { userView } from "../services/accounts/views.ts";
import {
  accountWhitelistInput,
  accountWhitelistView,
  deleteAccountWhitelist,
  getAccountWhitelist,
  putAccountWhitelist,
} from "../services/accounts/whitelist.ts";
import { instantView, pageQuery, pageView } from "../services/views.ts";
import { creditInput, creditView, creditWallet } from "../services/wallet/credit.ts";
import { listWalletEntries, readWallet, walletEntryView, walletView } from "../services/wallet/read.ts";
import { SESSION_COOKIE } from "./authenticate.ts";
import { contextOf, type Env, input, route } from "./define.ts";

const userParam = z.object({ userId: idSchema("usr") });
const signInBody = signInInput.extend({
  /** For the console: the token goes into an HttpOnly cookie and not into the answer. */
  cookie: z.boolean().default(false),
});

export const accountRoutes = new Hono<Env>()
  .post(
    "/sessions",
    route({
      access: "public",
      summary: "Sign in",
      status: 201,
      answer: z.object({ token: z.string().optional(), expiresAt: instantView, user: userView }),
    }),
    input("json", signInBody),
    async (c) => {
      const { cookie, ...credentials } = c.req.valid("json");
      const { token, ...session } = await signIn(contextOf(c), credentials, c.get("address"));
      if (!cookie) return c.json({ token, ...session }, 201);
      setCookie(c, SESSION_COOKIE, token, {
        httpOnly: true,
        secure: c.get("ports").settings.publicUrl.startsWith("https:"),
        sameSite: "Lax",
        path: "/",
        expires: new Date(session.expiresAt),
      });
      return c.json(session, 201);
    },
  )
  .delete("/sessions/current", route({ access: "me:write", summary: "Sign out", status: 204 }), async (c) => {
    await signOut(contextOf(c));
    deleteCookie(c, SESSION_COOKIE, { path: "/" });
    return c.body(null, 204);
  })
  .get(
    "/me",
    route({
      access: "me:read",
      summary: "The caller's account",
      answer: userView.extend({ permissions: z.array(z.string()) }),
    }),
    async (c) => c.json(await getMe(contextOf(c))),
  )
  .post(
    "/me/password",
    route({ access: "me:write", summary: "Change the own password", status: 204 }),
    input("json", changePasswordInput),
    async (c) => {
      await changePassword(contextOf(c), c.req.valid("json"));
      return c.body(null, 204);
    },
  )
  .post(
    "/api-tokens",
    route({
      access: "tokens:write",
      summary: "Make an API token; the secret is in this answer only",
      status: 201,
      answer: apiTokenView.extend({ token: z.string() }),
    }),
    input("json", createApiTokenInput),
    async (c) => c.json(await createApiToken(contextOf(c), c.req.valid("json")), 201),
  )
  .get(
    "/api-tokens",
    route({
      access: "tokens:write",
      summary: "The caller's API tokens",
      answer: z.object({ items: z.array(apiTokenView) }),
    }),
    async (c) => c.json(await listApiTokens(contextOf(c))),
  )
  .delete(
    "/api-tokens/:tokenId",
    route({ access: "tokens:write", summary: "Revoke an API token", status: 204 }),
    input("param", z.object({ tokenId: idSchema("tok") })),
    async (c) => {
      await revokeApiToken(contextOf(c), c.req.valid("param").tokenId);
      return c.body(null, 204);
    },
  )
  .get("/wallet", route({ access: "wallet:read", summary: "The caller's wallet", answer: walletView }), async (c) =>
    c.json(await readWallet(contextOf(c))),
  )
  .get(
    "/wallet/entries",
    route({ access: "wallet:read", summary: "What went in and out, newest first", answer: pageView(walletEntryView) }),
    input("query", pageQuery),
    async (c) => c.json(await listWalletEntries(contextOf(c), c.req.valid("query"))),
  )
  .post(
    "/users",
    route({ access: "users:write", summary: "Make an account", status: 201, answer: userView }),
    input("json", createUserInput),
    async (c) => c.json(await createUser(contextOf(c), c.req.valid("json")), 201),
  )
  .get(
    "/users",
    route({ access: "users:read", summary: "Accounts, newest first", answer: pageView(userView) }),
    input("query", pageQuery.extend({ name: z.string().max(129).optional() })),
    async (c) => c.json(await listUsers(contextOf(c), c.req.valid("query"))),
  )
  .get(
    "/users/:userId",
    route({ access: "users:read", summary: "One account", answer: userView }),
    input("param", userParam),
    async (c) => c.json(await getUser(contextOf(c), c.req.valid("param").userId)),
  )
  .get(
    "/users/:userId/wallet",
    route({ access: "users:read", summary: "A customer's wallet", answer: walletView }),
    input("param", userParam),
    async (c) => {
      const { userId } = c.req.valid("param");
      await getUser(contextOf(c), userId);
      return c.json(await readWallet(contextOf(c), userId));
    },
  )
  .post(
    "/users/:userId/certification",
    route({ access: "users:certify", summary: "Set a customer's real-name certification", answer: userView }),
    input("param", userParam),
    input("json", certifyInput),
    async (c) => c.json(await certifyUser(contextOf(c), c.req.valid("param").userId, c.req.valid("json"))),
  )
  .get(
    "/users/:userId/whitelist",
    route({ access: "users:read", summary: "The account's own whitelist", answer: accountWhitelistView }),
    input("param", userParam),
    async (c) => c.json(await getAccountWhitelist(contextOf(c), c.req.valid("param").userId)),
  )
  .put(
    "/users/:userId/whitelist",
    route({
      access: "catalogue:write",
      summary: "Give an account its own whitelist; it replaces those of its lines' service types",
      answer: accountWhitelistView,
    }),
    input("param", userParam),
    input("json", accountWhitelistInput),
    async (c) => c.json(await putAccountWhitelist(contextOf(c), c.req.valid("param").userId, c.req.valid("json"))),
  )
  .delete(
    "/users/:userId/whitelist",
    route({ access: "catalogue:write", summary: "Take an account's own whitelist away", status: 204 }),
    input("param", userParam),
    async (c) => {
      await deleteAccountWhitelist(contextOf(c), c.req.valid("param").userId);
      return c.body(null, 204);
    },
  )
  .post(
    "/users/:userId/credits",
    route({
      access: "wallet:credit",
      summary: "Put money into a customer's wallet",
      status: 201,
      answer: creditView,
      idempotent: true,
    }),
    input("param", userParam),
    input("json", creditInput),
    async (c) => c.json(await creditWallet(contextOf(c), c.req.valid("param").userId, c.req.valid("json")), 201),
  );
