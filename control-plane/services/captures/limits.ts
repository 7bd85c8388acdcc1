/** After a capture's own time: for what is on its way, and for the file to be written. */
export const CAPTURE_SLACK_MS = 60_000;
/** Headers of pcap around the packets: what a ticket allows on top of the capture's own limit. */
export const TICKET_SLACK_BYTES = 1_000_000;
/** One chunk of an upload. */
export const MAX_CHUNK_BYTES = 1024 * 1024;
