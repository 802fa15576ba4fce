#!/usr/bin/env bash
# The E2B SDK for JavaScript sends other commands than a Dockerfile says; the SDK for Python sends what it says.
#
# Both turn a Dockerfile into build steps on the client. Seen with e2b 2.51.0 of npm and e2b 2.63.0 of PyPI:
#   RUN sed 's/\./_/g' in > out   JavaScript drops the backslash, so that sed replaces every character.
#   RUN echo 'two   blanks'       JavaScript makes one blank of three, inside the quotes.
#   RUN ["echo", "exec form"]     JavaScript sends the JSON as a shell line.
#   ENV B="two words"             JavaScript sends the name `B="two` with the value `words"`.
#   RUN <<EOT                     JavaScript sends one line that a shell reads as an unfinished here-document.
#
# What follows: a build server cannot tell what was meant and should not repair; tests of a build server need
# both SDKs; users of the JavaScript one are better served by `Template().runCmd(…)`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-save --ignore-scripts --no-audit --no-fund --prefix . e2b@2.51.0
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check e2b==2.63.0

cat >Dockerfile <<'END'
FROM debian:12
RUN sed 's/\./_/g' in > out
RUN echo 'two   blanks'
RUN ["echo", "exec form"]
ENV B="two words"
RUN <<EOT
echo one
echo two
EOT
END
cat >probe.mjs <<'END'
import { readFileSync } from "node:fs";
import { Template } from "e2b";

const template = Template().fromDockerfile(readFileSync("Dockerfile", "utf8"));
for (const { type, args } of JSON.parse(await Template.toJSON(template, false)).steps) {
  if (type === "RUN" || type === "ENV") console.log(type, JSON.stringify(args));
}
END
cat >probe.py <<'END'
import json

from e2b import Template

with open("Dockerfile", encoding="utf8") as source:
    template = Template().from_dockerfile(source.read())
for step in json.loads(Template.to_json(template))["steps"]:
    if step["type"] in ("RUN", "ENV"):
        print(step["type"], json.dumps(step["args"], separators=(",", ":")))
END

expect() {
  printf '%s:\n%s\n\n' "$1" "$2"
  if [ "$2" != "$3" ]; then
    printf 'CHANGED: expected\n%s\n' "$3"
    exit 1
  fi
}
expect JavaScript "$(node probe.mjs)" 'RUN ["sed '"'s/./_/g'"' in > out"]
RUN ["echo '"'two blanks'"'"]
RUN ["[\"echo\", \"exec form\"]"]
ENV ["B=\"two","words\""]
RUN ["<<EOT echo one echo two EOT"]'
expect Python "$(venv/bin/python probe.py)" 'RUN ["sed '"'s/\\\\./_/g'"' in > out"]
RUN ["echo '"'two   blanks'"'"]
RUN ["echo '"'exec form'"'"]
ENV ["B","two words"]
RUN ["echo one\necho two\n"]'
echo "As described."
