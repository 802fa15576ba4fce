#!/usr/bin/env node
// Starts the command under the pinned Node; this file itself runs on whatever `node` is in PATH.
// oxlint-disable typescript/no-unsafe-call, typescript/no-unsafe-argument, typescript/no-unsafe-member-access -- plain JavaScript is in no tsconfig, so nothing here has a type
import { runTorpor } from "../../../bin/bootstrap.mjs";

await runTorpor(process.argv.slice(2));
