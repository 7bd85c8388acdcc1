import { expect, test } from "vitest";
import { domainSchema, isListedDomain, normaliseDomain } from "./values.ts";

test("what people type becomes one form of a name, or is refused", () => {
  const typed = {
    "Example.COM": "example.com",
    " example.com. ": "example.com",
    "*.Example.com": "*.example.com",
    "bücher.example": "xn--bcher-kva.example",
    "*.例え.テスト": "*.xn--r8jz45g.xn--zckzah",
    "_dmarc.example.com": "_dmarc.example.com",
  };
  for (const [text, name] of Object.entries(typed)) expect([text, normaliseDomain(text)]).toEqual([text, name]);
  const refused = ["", ".", "*", "*.", "com", "*.*.com", "a.*.com", "1.2.3.4", "0x7f.1", "ex ample.com", "a..com"];
  const tricks = ["example.com/x", "user@example.com", "example.com:53", "a.com\nserver=/x/1.1.1.1", "a%2ecom.x", "-"];
  for (const text of [...refused, ...tricks, ".example.com", `${"a".repeat(64)}.com`, "[::1]"])
    expect([text, normaliseDomain(text)]).toEqual([text, undefined]);
});

test("only the one form is accepted in a state: nothing else can reach the resolver's configuration", () => {
  const bad = [
    "Example.com",
    "example.com.",
    "a.com/b",
    "a.com\n",
    "\na.com",
    "a.com#53",
    "*a.com",
    "**.a.com",
    "a,b.com",
  ];
  for (const text of bad) expect([text, domainSchema.safeParse(text).success]).toEqual([text, false]);
  for (const text of ["a.bc", "*.a.bc", "x-1.a.bc", "xn--bcher-kva.example"])
    expect([text, domainSchema.safeParse(text).success]).toEqual([text, true]);
});

test("an exact name is itself alone, a starred one all below it and not itself", () => {
  const listed = new Set(["one.example", "*.wide.example"]);
  const names = ["one.example", "a.one.example", "wide.example", "a.wide.example", "b.a.wide.example", "awide.example"];
  expect(names.filter((name) => isListedDomain(listed, name))).toEqual([
    "one.example",
    "a.wide.example",
    "b.a.wide.example",
  ]);
});
