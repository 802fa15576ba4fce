#!/usr/bin/env bash
# `read` of dash and of busybox gets the first digit of a number below /proc/sys, without an error: of 192731 it
# gets 1.
#
# POSIX asks that `read` takes no byte behind the line, so both shells read byte by byte. A file of /proc/sys that
# holds a number or a list of numbers answers a read at its beginning only, with as much as was asked for, and says
# end of file after that. Files of text there, and those of /proc outside sys, can be read byte by byte. bash reads
# blocks of a file that it can seek in and gets the whole number.
#
# Seen on Linux 6.18 with dash 0.5.12, BusyBox 1.35.0 and bash 5.2 of Debian 12.
#
# What follows: an init script takes such values by `$(cat FILE)`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get download --quiet=2 dash=0.5.12-2 "busybox=1:1.35.0-4+deb12u1+b1" bash=5.2.15-2+b13
for package in ./*.deb; do dpkg-deb --extract "$package" root; done

number=$(cat /proc/sys/kernel/threads-max)
range=$(cat /proc/sys/net/ipv4/ip_local_port_range)
name=$(cat /proc/sys/kernel/hostname)
# The number has several digits, or its first digit would prove nothing.
[ "${#number}" -gt 1 ]

read_by() {
  "$@" -c 'read -r line <"$0" || :; printf "%s\n" "$line"' "$file"
}
expect() {
  file=$3
  seen=$(read_by "${@:4}")
  printf '%-8s %-42s %s\n' "$1" "$file" "$seen"
  if [ "$seen" != "$2" ]; then
    printf 'CHANGED: expected %s\n' "$2"
    exit 1
  fi
}
for shell in dash busybox; do
  program=(root/bin/dash)
  [ "$shell" = dash ] || program=(root/bin/busybox sh)
  expect "$shell" "${number:0:1}" /proc/sys/kernel/threads-max "${program[@]}"
  expect "$shell" "${range:0:1}" /proc/sys/net/ipv4/ip_local_port_range "${program[@]}"
  expect "$shell" "$name" /proc/sys/kernel/hostname "${program[@]}"
done
expect bash "$number" /proc/sys/kernel/threads-max root/bin/bash
echo "As described."
