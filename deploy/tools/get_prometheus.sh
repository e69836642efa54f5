#!/usr/bin/env bash
# Makes prometheus and promtool available to the tests: links to those on PATH, else the binaries of Debian's package,
# unpacked without installing it (no root needed). Where neither can be had it says so and the tests that need them skip.
#
# Usage: deploy/tools/get_prometheus.sh FOLDER
set -euo pipefail
folder=${1:?usage: $0 FOLDER}
tools=(prometheus promtool)

has_all() { for tool in "${tools[@]}"; do [[ -x $folder/$tool ]] || return 1; done; }

has_all && exit 0
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

if command -v prometheus >/dev/null && command -v promtool >/dev/null; then
    for tool in "${tools[@]}"; do ln -sf "$(command -v "$tool")" "$folder/$tool"; done
    exit 0
fi

if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    echo "prometheus: neither on PATH nor a Debian to get it from; the tests that need it will skip" >&2
    exit 0
fi

unpacked=$(mktemp -d)
trap 'rm -rf "$unpacked"' EXIT

# As root apt would fetch as a user of its own, who cannot write here.
options=(-qq -o APT::Sandbox::User="$(id -un)" -o Acquire::Retries=1 -o Acquire::http::Timeout=20)
download() { (cd "$unpacked" && apt-get download "${options[@]}" prometheus) 2>"$unpacked/words"; }

# The lists of packages may be missing or old: brought up to date where that is allowed.
if ! download && ! { apt-get update "${options[@]}" 2>>"$unpacked/words" && download; }; then
    echo "prometheus: cannot be downloaded ($(tail -n 1 "$unpacked/words")); the tests that need it will skip" >&2
    exit 0
fi
dpkg-deb --extract "$unpacked"/prometheus_*.deb "$unpacked/root"
for tool in "${tools[@]}"; do install -m 755 "$unpacked/root/usr/bin/$tool" "$folder/$tool"; done
