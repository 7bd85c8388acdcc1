/**
 * The closed list of error codes. A code is part of the API: it may be added, never renamed or given another meaning.
 * [HTTP status, title].
 */
export const ERROR_CODES = {
  // the request itself
  bad_request: [400, "The request is not valid"],
  bad_json: [400, "The body is not valid JSON"],
  validation_failed: [422, "A value is missing or not valid"],
  body_too_large: [413, "The body is too large"],
  unsupported_media_type: [415, "The body must be application/json"],
  not_found: [404, "There is nothing here"],
  method_not_allowed: [405, "This method is not allowed here"],
  // who
  unauthenticated: [401, "Sign in, or present a valid token"],
  bad_credentials: [401, "The name or the password is wrong"],
  forbidden: [403, "You may not do this"],
  account_disabled: [403, "The account is disabled"],
  origin_refused: [403, "This origin may not change anything here"],
  rate_limited: [429, "Too many requests"],
  name_taken: [409, "That name is taken"],
  // idempotency and concurrency
  idempotency_key_reused: [422, "This idempotency key was used with another request"],
  idempotency_in_flight: [409, "The first request with this idempotency key is still running"],
  conflict: [409, "The thing changed meanwhile, or is not in a state that allows this"],
  // orders and money
  sub_account_may_not_order: [403, "A sub-account may not order"],
  not_certified: [403, "Real-name certification is needed before ordering"],
  charge_type_not_eligible: [422, "This charge type is not open to the account"],
  product_off_sale: [409, "The product is not on sale"],
  region_off_sale: [409, "The region is not on sale for this product"],
  region_not_configured: [409, "The destination is not configured"],
  price_not_found: [404, "There is no such price"],
  group_not_found: [404, "There is no such group"],
  whitelist_too_large: [422, "The whitelist would be larger than a host takes"],
  service_type_not_found: [404, "There is no such service type"],
  quantity_out_of_range: [422, "The quantity is out of range"],
  quote_stale: [409, "The quote has expired, was used or no longer matches the catalogue"],
  order_not_payable: [409, "The order can no longer be paid"],
  order_not_cancellable: [409, "The order can no longer be cancelled"],
  balance_too_low: [409, "The wallet does not hold enough"],
  channel_not_configured: [409, "This payment channel is not configured"],
  amount_out_of_range: [422, "The amount is out of range"],
  // lines and connections
  line_not_active: [409, "The line is not active"],
  lines_busy: [409, "No port is free on any forward host of the region"],
  no_forward_host: [409, "No forward host of the region is online"],
  region_in_use: [409, "The region is in use"],
  // hosts and links
  enrolment_refused: [403, "The enrolment token is not valid, used up or expired"],
  host_not_online: [409, "The host is not online"],
  host_needs_upgrade: [409, "The host's agent is too old for this"],
  pair_overlaps: [409, "The ports overlap with another pair of that host"],
  pair_in_use: [409, "Connections still use ports of the pair"],
  forward_full: [422, "The forward host would have more ports than it can hold"],
  address_taken: [409, "Another exit holds that address"],
  links_elsewhere: [503, "This process holds no agent links"],
  // captures and pings
  bad_filter: [422, "The capture filter is not valid"],
  capture_busy: [409, "A capture is already running on that host"],
  no_private_path: [409, "There is no private path for the capture's bytes"],
  capture_not_ready: [409, "The capture has no file yet"],
  offset_mismatch: [409, "The offset does not match what is stored"],
  client_not_connected: [409, "The line has no open connection"],
  // us
  internal: [500, "Something went wrong on our side"],
  overloaded: [503, "The service is starting, draining or overloaded"],
  storage_unavailable: [503, "Nothing can be stored at the moment"],
} as const satisfies Record<string, readonly [number, string]>;

export type ErrorCode = keyof typeof ERROR_CODES;

/**
 * The one error type of the project. Thrown once, where the rule is; turned into problem+json or a link's
 * close reason once, at the edge.
 */
export class AppError extends Error {
  readonly code: ErrorCode;
  /** Extra members of the problem document, for example `retryAfterMs` or `issues`. Never a secret. */
  readonly extra: Readonly<Record<string, unknown>>;

  /**
   * @param code one of the closed list
   * @param detail one sentence for the person who has to act; for a 5xx it is logged and not sent
   * @param extra further members of the problem document
   */
  constructor(code: ErrorCode, detail?: string, extra: Record<string, unknown> = {}) {
    super(detail ?? ERROR_CODES[code][1]);
    this.name = "AppError";
    this.code = code;
    this.extra = extra;
  }

  get status(): number {
    return ERROR_CODES[this.code][0];
  }

  get title(): string {
    return ERROR_CODES[this.code][1];
  }
}

/** True for an {@link AppError}, of that code when one is given. */
export function isAppError(error: unknown, code?: ErrorCode): error is AppError {
  return error instanceof AppError && (code === undefined || error.code === code);
}
