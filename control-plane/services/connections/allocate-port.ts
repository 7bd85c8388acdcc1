/**
 * The next free port of a range after the one used last, wrapping round, skipping the ports in use or still in quarantine.
 * Undefined when there is none.
 *
 * Searching on from the last one, rather than from the start, gives a port the longest rest before another customer gets it.
 */
export function nextFreePort(
  range: { startPort: number; maxLoad: number; lastPort: number | null },
  taken: ReadonlySet<number>,
): number | undefined {
  const { startPort, maxLoad, lastPort } = range;
  const first = lastPort === null ? 0 : (lastPort - startPort + 1) % maxLoad;
  for (let i = 0; i < maxLoad; i++) {
    const port = startPort + ((first + i + maxLoad) % maxLoad);
    if (!taken.has(port)) return port;
  }
  return undefined;
}
