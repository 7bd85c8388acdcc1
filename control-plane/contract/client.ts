import { expect } from "vitest";
import type { ErrorCode } from "../../shared/errors.ts";

/** The API under test, whatever runs it. */
export type Target = {
  /** `path` starts with a slash. */
  fetch(path: string, init: RequestInit): Promise<Response>;
  /** The administrator that the first start made. */
  admin: { name: string; password: string };
};

// biome-ignore lint/suspicious/noExplicitAny: what an API answers is looked at by the tests, member by member
export type Answer = { status: number; headers: Headers; text: string; json: any };

export type Call = { token?: string; body?: unknown; key?: string; headers?: Record<string, string> };

/** A body that is sent as it stands and not as JSON. */
export class RawBody {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
}

/** Calls the API as a client would: JSON in and out, a bearer token, an Idempotency-Key. */
export class Client {
  readonly #target: Target;

  constructor(target: Target) {
    this.#target = target;
  }

  async call(method: string, path: string, { token, body, key, headers }: Call = {}): Promise<Answer> {
    const response = await this.#target.fetch(path, {
      method,
      headers: {
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
        ...(body === undefined ? {} : { "content-type": "application/json" }),
        ...(key === undefined ? {} : { "idempotency-key": key }),
        ...headers,
      },
      ...(body === undefined ? {} : { body: body instanceof RawBody ? body.text : JSON.stringify(body) }),
    });
    const text = await response.text();
    const isJson = /^application\/(problem\+)?json/.test(response.headers.get("content-type") ?? "");
    return { status: response.status, headers: response.headers, text, json: isJson ? JSON.parse(text) : undefined };
  }

  get = (path: string, call?: Call) => this.call("GET", path, call);
  post = (path: string, call?: Call) => this.call("POST", path, call);
  put = (path: string, call?: Call) => this.call("PUT", path, call);

  /** The answer's JSON of a call that has to succeed. */
  async ok(method: string, path: string, call?: Call): Promise<Answer["json"]> {
    const answer = await this.call(method, path, call);
    expect(answer.status, `${method} ${path}: ${answer.text}`).toBeOneOf([200, 201]);
    return answer.json;
  }

  /** A session's token. */
  async signIn(name: string, password: string): Promise<string> {
    return (await this.ok("POST", "/sessions", { body: { name, password } })).token;
  }
}

/** Checks that an answer is that problem, in the form every problem has. */
export function expectProblem(answer: Answer, status: number, code: ErrorCode): void {
  expect({ status: answer.status, code: answer.json?.code }, answer.text).toEqual({ status, code });
  expect(answer.headers.get("content-type")).toBe("application/problem+json");
  expect(answer.json).toMatchObject({
    type: `urn:trunkline:error:${code}`,
    status,
    title: expect.any(String),
    requestId: answer.headers.get("x-request-id"),
  });
}
