import { expect, test } from "vitest";
import { parseClientConfig } from "./wireguard-client.ts";

const CONF = `[Interface]
PrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=
Address = 10.13.13.2/32
DNS = 10.13.13.1, 192.0.2.53
MTU = 1392

[Peer]
PublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=
Endpoint = 198.51.100.18:30007
AllowedIPs = 0.0.0.0/0
PersistentKeepalive = 25
`;

test("a client's file is split into what wg takes and what wg-quick does", () => {
  const config = parseClientConfig(CONF);
  expect(config).toMatchObject({
    addresses: ["10.13.13.2/32"],
    dns: ["10.13.13.1", "192.0.2.53"],
    mtu: 1392,
    endpoint: { address: "198.51.100.18", port: 30_007 },
    allowedIps: ["0.0.0.0/0"],
  });
  expect(config.setconf).not.toMatch(/Address|DNS|MTU/);
  expect(config.setconf).toMatch(/PrivateKey = yAnz[\s\S]*PersistentKeepalive = 25/);
});

test("a file without an endpoint is refused by name", () => {
  expect(() => parseClientConfig(CONF.replace(/^Endpoint.*$/m, ""))).toThrow(/endpoint/);
});
