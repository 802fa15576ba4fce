#!/usr/bin/env bash
# Two tar libraries for Node read archives with sparse files without an error and give other files than tar wrote.
#
# GNU tar writes sparse files with --sparse in a form of its own (type "S") and, with --format=posix, as a
# member GNUSparseFile.PID/NAME that holds a map and the condensed data. Image layers made with either exist.
#
# Seen with a file of 3 MiB that has two pieces of 4 KiB:
#   tar (node-tar) 7.5.23   old form: the file is left out, and no warning is given.
#                           posix form: a file GNUSparseFile.PID/sparse.bin with map and condensed data.
#   tar-stream 3.2.2        old form: an entry of type null with the 8 KiB of condensed data.
#                           posix form: as node-tar.
#   Python's tarfile reads both forms as the 3 MiB that they mean.
#
# What follows: unpack layers with a tool that knows both forms, and compare sizes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-save --ignore-scripts --no-audit --no-fund --prefix . tar@7.5.23 tar-stream@3.2.2

printf 'before\n' >before.txt
printf 'after\n' >after.txt
truncate --size 3M sparse.bin
for at in 0 256; do
  head -c 4096 /dev/zero | tr '\0' x | dd of=sparse.bin bs=4096 seek=$at conv=notrunc status=none
done
for form in gnu posix; do
  tar --create --sparse --format="$form" --file="$form.tar" before.txt sparse.bin after.txt
done

cat >probe.mjs <<'END'
import { createReadStream } from "node:fs";
import * as nodeTar from "tar";
import { extract } from "tar-stream";

const stable = (name) => name.replace(/GNUSparseFile\.\d+/, "GNUSparseFile.PID");
for (const file of ["gnu.tar", "posix.tar"]) {
  const warnings = [];
  const listed = [];
  await nodeTar.list({
    file,
    onwarn: (code) => warnings.push(code),
    onReadEntry: ({ path, size }) => listed.push(`${stable(path)} ${size}`),
  });
  console.log(`node-tar ${file}: ${listed.join(", ")}; warnings: ${warnings.length}`);
  const streamed = [];
  for await (const entry of createReadStream(file).pipe(extract())) {
    const { name, type, size } = entry.header;
    streamed.push(`${stable(name)} ${type} ${size}`);
    entry.resume();
  }
  console.log(`tar-stream ${file}: ${streamed.join(", ")}`);
}
END
cat >probe.py <<'END'
import tarfile

for name in ("gnu.tar", "posix.tar"):
    with tarfile.open(name) as archive:
        print(f"tarfile {name}:", ", ".join(f"{one.name} {one.size}" for one in archive))
END

seen=$(node probe.mjs && python3 probe.py)
wanted='node-tar gnu.tar: before.txt 7, after.txt 6; warnings: 0
tar-stream gnu.tar: before.txt file 7, sparse.bin null 8192, after.txt file 6
node-tar posix.tar: before.txt 7, ./GNUSparseFile.PID/sparse.bin 8704, after.txt 6; warnings: 0
tar-stream posix.tar: before.txt file 7, ./GNUSparseFile.PID/sparse.bin file 8704, after.txt file 6
tarfile gnu.tar: before.txt 7, sparse.bin 3145728, after.txt 6
tarfile posix.tar: before.txt 7, sparse.bin 3145728, after.txt 6'
printf '%s\n' "$seen"
if [ "$seen" != "$wanted" ]; then
  printf 'CHANGED: expected\n%s\n' "$wanted"
  exit 1
fi
echo "As described."
