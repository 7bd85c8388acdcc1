/** Longest filter taken, in characters. */
export const MAX_FILTER = 1024;

/**
 * Words of the filter language that never make tcpdump ask a name server or read a file. A closed list: any other word
 * could be a host's name, and looking it up would send DNS questions out of the host that is being watched.
 */
const WORDS = new Set(
  (
    "and or not host net mask port portrange src dst gateway tcp udp icmp icmp6 ip ip6 arp rarp ether proto protochain " +
    "sctp ah esp igmp pim vrrp vlan mpls broadcast multicast less greater len inbound outbound " +
    "tcpflags tcp-fin tcp-syn tcp-rst tcp-push tcp-ack tcp-urg tcp-ece tcp-cwr " +
    "icmptype icmpcode icmp-echo icmp-echoreply icmp-unreach icmp-timxceed icmp-redirect icmp-sourcequench " +
    "icmp-paramprob icmp-tstamp icmp-tstampreply"
  ).split(" "),
);
const CHARACTERS = /^[A-Za-z0-9 \t.:/()[\]&|!<>=+*%^~-]*$/;
const NUMERIC = /^(?:\d+|0x[0-9a-f]+|\d+(?:\.\d+){1,3}(?:\/\d+)?|\d+\/\d+|\d+-\d+|[0-9a-f]*:[0-9a-f:.]*(?:\/\d+)?)$/i;

/**
 * Why a filter is refused before any program sees it, or undefined. It must be short, plain and numeric: addresses and
 * ports as numbers.
 */
export function filterProblem(filter: string): string | undefined {
  if (filter.length > MAX_FILTER) return `the filter is longer than ${MAX_FILTER} characters`;
  if (!CHARACTERS.test(filter)) return "the filter holds a character that filters do not need";
  for (const word of filter.split(/[\s()[\]&|!<>=+*%^~]+/)) {
    // "tcp[12]-1": the minus of a sum sticks to its number.
    const bare = word.replace(/^-/, "");
    if (bare !== "" && !WORDS.has(bare.toLowerCase()) && !NUMERIC.test(bare) && !isAccessor(bare)) {
      return `"${bare.slice(0, 40)}" is neither a number nor a word of the filter language; names are not looked up`;
    }
  }
  return undefined;
}

/** "tcp[0:2]" leaves "0:2" behind, which looks like an address; "ip[2:2]" likewise. */
function isAccessor(word: string): boolean {
  return /^\d+:[124]$/.test(word);
}
