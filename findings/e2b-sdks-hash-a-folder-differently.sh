#!/usr/bin/env bash
# The two E2B SDKs give one folder two hashes, so that a copy step of the same template is never found in a cache
# that the other one filled. Of a single file both give the same.
#
# The hash of a COPY step is made on the client and sent as `filesHash`; a build server asks by it whether the
# files were uploaded before. Seen with e2b 2.51.0 of npm, which mixes in the size that stat gives of each folder,
# and e2b 2.63.0 of PyPI, which leaves it out. That size is the file system's own affair: the hash of JavaScript
# also differs between two file systems, or after files of the folder were made and removed (ext4 never shrinks one).
#
# What follows: a server takes the hash for an opaque name of an upload, and never checks it against the files.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-save --ignore-scripts --no-audit --no-fund --prefix . e2b@2.51.0
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check e2b==2.63.0
mkdir --parents context/folder
echo content >context/folder/file
chmod 755 context/folder
chmod 644 context/folder/file

cat >probe.mjs <<'END'
import { Template } from "e2b";

const template = Template({ fileContextPath: "context" })
  .fromImage("debian:12")
  .copy("folder/file", "/file")
  .copy("folder", "/folder");
for (const step of JSON.parse(await Template.toJSON(template, true)).steps) console.log(step.filesHash);
END
cat >probe.py <<'END'
import json

from e2b import Template

template = Template(file_context_path="context").from_image("debian:12")
template = template.copy("folder/file", "/file").copy("folder", "/folder")
for step in json.loads(Template.to_json(template))["steps"]:
    print(step["filesHash"])
END

mapfile -t javascript < <(node probe.mjs)
mapfile -t python < <(venv/bin/python probe.py)
printf 'a file    JavaScript %s\n          Python     %s\n' "${javascript[0]}" "${python[0]}"
printf 'a folder  JavaScript %s\n          Python     %s\n' "${javascript[1]}" "${python[1]}"
if [ "${javascript[0]}" != "${python[0]}" ] || [ "${javascript[1]}" = "${python[1]}" ]; then
  echo "CHANGED: the file had one hash, the folder had two"
  exit 1
fi
echo "As described."
