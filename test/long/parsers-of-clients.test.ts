/** A million inputs for each parser of what clients send; test/fuzz/fuzz.test.ts tries a thousand. */
import { clientTargets } from "../fuzz/clients.ts";
import { longInputs, testTarget } from "../fuzz/test-target.ts";

for (const target of clientTargets) testTarget(target, longInputs);
