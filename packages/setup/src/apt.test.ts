import assert from "node:assert/strict";
import { test } from "node:test";
import {
  findDebianArchives,
  parseAptStatus,
  parseAptTargets,
  parseInheritedOptions,
  parseOsRelease,
} from "./apt.ts";
import { backportsSource } from "./debian-packages.ts";

const fetched = `http://mirror.test/vendor/|bookworm|bookworm|main|Vendor
http://mirror.test/debian/|bookworm|bookworm|main|Debian
http://mirror.test/debian/|bookworm-updates|bookworm-updates|main|Debian
http://mirror.test/debian-security/|bookworm-security|bookworm-security|main|Debian
`;
const unfetched = `http://mirror.test/vendor/|bookworm|$(CODENAME)|main|$(ORIGIN)
http://mirror.test/debian/|bookworm|$(CODENAME)|main|$(ORIGIN)
http://mirror.test/debian/|bookworm-updates|$(CODENAME)|main|$(ORIGIN)
`;

test("findDebianArchives() finds both archives and leaves others alone", () => {
  assert.deepEqual(findDebianArchives(parseAptTargets(fetched), "bookworm"), {
    mainUri: "http://mirror.test/debian/",
    securityUri: "http://mirror.test/debian-security/",
  });
});

test("findDebianArchives() finds Debian before the first update, without origins", () => {
  assert.deepEqual(findDebianArchives(parseAptTargets(unfetched), "bookworm"), {
    mainUri: "http://mirror.test/debian/",
    securityUri: undefined,
  });
});

test("findDebianArchives() knows a source that says stable, and no other release", () => {
  const stable = parseAptTargets("http://mirror.test/debian/|stable|trixie|main|Debian\n");
  assert.equal(findDebianArchives(stable, "trixie")?.mainUri, "http://mirror.test/debian/");
  const other = parseAptTargets("http://mirror.test/debian/|trixie|trixie|main|Debian\n");
  assert.equal(findDebianArchives(other, "bookworm"), undefined);
});

test("backportsSource() uses the machine's own address", () => {
  const text = backportsSource(parseAptTargets(fetched), "bookworm");
  assert.match(text, /^URIs: http:\/\/mirror\.test\/debian\/$/m);
  assert.match(text, /^Suites: bookworm-backports$/m);
  assert.throws(() => backportsSource([], "bookworm"), { code: "command.failed" });
});

test("parseAptStatus() reads both kinds of status line and nothing else", () => {
  assert.deepEqual(parseAptStatus("dlstatus:1:25.5:Retrieving file 1 of 4"), {
    phase: "download",
    fraction: 0.255,
    what: "file 1 of 4",
  });
  assert.deepEqual(parseAptStatus("pmstatus:qemu-utils:50:Unpacking qemu-utils (amd64)"), {
    phase: "install",
    fraction: 0.5,
    what: "qemu-utils",
  });
  assert.equal(parseAptStatus("pmstatus:libc6:amd64:50:Unpacking")?.what, "libc6");
  assert.equal(parseAptStatus("Setting up qemu-utils ..."), undefined);
});

test("parseInheritedOptions() keeps proxies and drops the rest", () => {
  const dump = `Acquire "";
Acquire::http::Proxy "http://proxy.test:3128";
Acquire::Check-Valid-Until "false";
Acquire::cdrom "";
Acquire::IndexTargets::deb::Packages::ShortDescription "Packages";
`;
  assert.deepEqual(parseInheritedOptions(dump), [
    "Acquire::http::Proxy=http://proxy.test:3128",
    "Acquire::Check-Valid-Until=false",
  ]);
});

test("parseOsRelease() reads Debian and survives nothing at all", () => {
  const text =
    'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\nID=debian\n';
  assert.deepEqual(parseOsRelease(text), {
    id: "debian",
    codename: "bookworm",
    version: 12,
    prettyName: "Debian GNU/Linux 12 (bookworm)",
  });
  assert.equal(parseOsRelease("").version, 0);
});
