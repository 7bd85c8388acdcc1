/** A problem document as an error: what the API refused and why. */
export class ApiProblem extends Error {
  readonly status: number;
  readonly code: string;

  constructor(call: string, status: number, body: { code?: string; detail?: string }) {
    super(`${call}: ${status} ${body.code ?? ""} ${body.detail ?? ""}`.trim());
    this.name = "ApiProblem";
    this.status = status;
    this.code = body.code ?? "";
  }
}

// biome-ignore lint/suspicious/noExplicitAny: answers are read by scripts and tests, which look at what they expect
export type Answer = any;

/** The public HTTP API, as one user or token. Every call throws {@link ApiProblem} for a refusal. */
export class Api {
  readonly baseUrl: string;
  readonly #token: string | undefined;

  constructor(baseUrl: string, token?: string) {
    this.baseUrl = baseUrl;
    this.#token = token;
  }

  as(token: string): Api {
    return new Api(this.baseUrl, token);
  }

  /** Signs in; answers the API as that user. */
  async signIn(name: string, password: string): Promise<Api> {
    const { token } = await this.post("/sessions", { name, password });
    return this.as(token);
  }

  async send(method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<Response> {
    const response = await fetch(`${this.baseUrl}${path}`, {
      method,
      headers: {
        ...(this.#token === undefined ? {} : { authorization: `Bearer ${this.#token}` }),
        ...(body === undefined ? {} : { "content-type": "application/json" }),
        ...headers,
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    if (response.ok) return response;
    const problem = (await response.json().catch(() => ({}))) as { code?: string; detail?: string };
    throw new ApiProblem(`${method} ${path}`, response.status, problem);
  }

  async #json(method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<Answer> {
    const response = await this.send(method, path, body, headers);
    return response.status === 204 ? undefined : response.json();
  }

  get = (path: string) => this.#json("GET", path);
  post = (path: string, body?: unknown, headers?: Record<string, string>) => this.#json("POST", path, body, headers);
  put = (path: string, body: unknown) => this.#json("PUT", path, body);
  patch = (path: string, body: unknown) => this.#json("PATCH", path, body);
  delete = (path: string) => this.#json("DELETE", path);

  /** Reads a stream of server-sent events to its end. */
  async *events(path: string, body: unknown): AsyncGenerator<{ event: string; data: Answer }> {
    const response = await this.send("POST", path, body);
    if (response.body === null) return;
    let text = "";
    for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
      text += chunk;
      const blocks = text.split("\n\n");
      text = blocks.pop() ?? "";
      for (const block of blocks) {
        const field = (name: string) => new RegExp(`^${name}: (.*)$`, "m").exec(block)?.[1] ?? "";
        yield { event: field("event"), data: JSON.parse(field("data")) };
      }
    }
  }
}
