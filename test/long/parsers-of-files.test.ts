/** A million inputs for each parser of files, of what programs print, and of the command line; test/fuzz/fuzz.test.ts tries a thousand. */
import { hostTargets } from "../fuzz/host.ts";
import { longInputs, testTarget } from "../fuzz/test-target.ts";

for (const target of hostTargets) testTarget(target, longInputs);
