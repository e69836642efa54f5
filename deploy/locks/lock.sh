#!/usr/bin/env bash
# Resolves the locks: cpu.txt (everything for work and tests on a CPU, without torch itself), service.txt (the
# service alone), uv.txt (the installer). Pinned, hashed, and free of any download host.
set -euo pipefail
bin=$1
here=$(dirname "$0")
wheel=$(mktemp -d)
trap 'rm -rf "$wheel"' EXIT
"$bin/python" -m pip download --quiet --no-deps --dest "$wheel" torch==2.13.0+cpu
constraints="$wheel/constraints.txt"
printf 'torch==2.13.0+cpu\nnumpy==2.3.5\nstarlette>=1.0\n' > "$constraints"
compile() {
  "$bin/uv" pip compile --quiet --python-version 3.11 --generate-hashes --no-header --no-annotate \
    --no-emit-index-url --no-emit-find-links --find-links "$wheel" --constraint "$constraints" \
    --no-emit-package torch "$@"
}
compile pyproject.toml --extra cpu --extra train --group dev --output-file "$here/cpu.txt"
compile pyproject.toml --output-file "$here/service.txt"
echo "uv==0.13.8" | compile - --output-file "$here/uv.txt"
