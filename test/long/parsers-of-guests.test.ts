/** A million inputs for each parser of what guests, their VMMs and their pagers say; test/fuzz/fuzz.test.ts tries a thousand. */
import { guestTargets } from "../fuzz/guests.ts";
import { longInputs, testTarget } from "../fuzz/test-target.ts";

for (const target of guestTargets) testTarget(target, longInputs);
