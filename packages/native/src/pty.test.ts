import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { closeSync, readSync, writeSync } from "node:fs";
import { test } from "node:test";
import { openPipe } from "./pipe.ts";
import { openPty, resizePty } from "./pty.ts";

test("openPty() connects the two ends and resizePty() sets the size the slave reports", () => {
  const pty = openPty();
  try {
    resizePty(pty.masterFd, 123, 45);
    const size = execFileSync("stty", ["size"], { stdio: [pty.slaveFd, "pipe", "ignore"] });
    assert.equal(size.toString(), "45 123\n");
    writeSync(pty.slaveFd, "hello");
    const bytes = Buffer.alloc(16);
    assert.equal(bytes.toString("utf8", 0, readSync(pty.masterFd, bytes)), "hello");
  } finally {
    closeSync(pty.masterFd);
    closeSync(pty.slaveFd);
  }
});

test("openPipe() carries bytes from one end to the other", () => {
  const pipe = openPipe();
  writeSync(pipe.writeFd, "hello");
  closeSync(pipe.writeFd);
  const bytes = Buffer.alloc(16);
  assert.equal(bytes.toString("utf8", 0, readSync(pipe.readFd, bytes)), "hello");
  assert.equal(readSync(pipe.readFd, bytes), 0);
  closeSync(pipe.readFd);
});
