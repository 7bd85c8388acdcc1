import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { connect as connectTls, type TLSSocket } from "node:tls";
import { isPrivateAddress } from "../../shared/protocol/values.ts";
import { TaskError } from "./types.ts";
import { frameHeader, MAX_UPLINK_FRAME, UPLINK_TLS } from "./uplink-frames.ts";

const CONNECT_TIMEOUT_MS = 10_000;
export interface UplinkTarget {
  address: string;
  port: number;
  ticket: string;
  psk: Uint8Array;
}

/**
 * The sending end of an uplink. Connects by the private network or not at all: the exit's public bandwidth is the
 * customer's. Errors: `no_private_path`, `uplink_failed`, `cancelled`.
 */
export class UplinkClient {
  /** Resolves when the connection is gone, for whatever reason. */
  readonly closed: Promise<void>;
  readonly #tls: TLSSocket;
  #failure: Error | undefined;
  #stored = false;

  private constructor(tls: TLSSocket) {
    this.#tls = tls;
    this.closed = new Promise((resolve) => tls.once("close", () => resolve()));
    tls.on("error", (error) => {
      this.#failure ??= error;
    });
    // The only thing the other side ever says is that everything is stored.
    tls.on("data", () => {
      this.#stored = true;
    });
  }

  static async connect(target: UplinkTarget, signal: AbortSignal): Promise<UplinkClient> {
    const at = `${target.address}:${target.port}`;
    if (!isPrivateAddress(target.address)) {
      throw new TaskError("no_private_path", `the uplink ${at} has no private address`);
    }
    const limit = AbortSignal.any([signal, AbortSignal.timeout(CONNECT_TIMEOUT_MS)]);
    const socket = connect({ host: target.address, port: target.port, noDelay: true });
    try {
      await once(socket, "connect", { signal: limit });
      checkSource(socket);
      const tls = connectTls({
        ...UPLINK_TLS,
        socket,
        pskCallback: () => ({ psk: target.psk, identity: target.ticket }),
        // The shared key is the proof; there is no certificate to look at.
        checkServerIdentity: () => undefined,
      });
      await once(tls, "secureConnect", { signal: limit });
      return new UplinkClient(tls);
    } catch (error) {
      socket.destroy();
      if (error instanceof TaskError) throw error;
      if (signal.aborted) throw new TaskError("cancelled", "the capture was cancelled before it began");
      const late = limit.aborted ? `no answer within ${CONNECT_TIMEOUT_MS / 1000} s` : said(error);
      throw new TaskError("uplink_failed", `the uplink ${at} could not be used: ${late}`);
    }
  }

  /** Sends bytes; resolves when more may be sent. Throws `uplink_failed` when the connection is gone. */
  async send(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length; at += MAX_UPLINK_FRAME) {
      const part = bytes.subarray(at, at + MAX_UPLINK_FRAME);
      this.#assertOpen();
      this.#tls.write(frameHeader(part.length));
      if (!this.#tls.write(part)) await Promise.race([this.#drained(), this.closed]);
    }
    this.#assertOpen();
  }

  /** Says the end, and waits for the other side's word that everything is stored. */
  async finish(): Promise<void> {
    this.#assertOpen();
    this.#tls.write(frameHeader(0));
    await this.closed;
    if (!this.#stored) throw this.#error();
  }

  /** Breaks the connection off: the other side sees a cut, not an end. */
  destroy(): void {
    this.#tls.destroy();
  }

  #drained(): Promise<void> {
    return new Promise((resolve) => this.#tls.once("drain", () => resolve()));
  }

  #assertOpen(): void {
    if (this.#failure || this.#tls.destroyed || !this.#tls.writable) throw this.#error();
  }

  #error(): TaskError {
    return new TaskError("uplink_failed", `the uplink broke off: ${this.#failure ? said(this.#failure) : "it closed"}`);
  }
}

/** The route may have changed since the control plane chose the address: what counts is where the packets leave. */
function checkSource(socket: Socket): void {
  const { localAddress = "" } = socket;
  if (!isPrivateAddress(localAddress)) {
    throw new TaskError("no_private_path", `the way to the uplink leaves by the public address ${localAddress}`);
  }
}

/** OpenSSL's messages carry a file and a line of its source; the code is what a person needs. */
function said(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { code } = error as NodeJS.ErrnoException;
  if (code === "ERR_SSL_TLSV1_ALERT_UNKNOWN_PSK_IDENTITY") return "it does not know this ticket";
  if (code?.endsWith("BAD_RECORD_MAC")) return "it refused the key";
  return code ?? error.message;
}
