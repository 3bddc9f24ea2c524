#!/bin/sh
# One virtual environment a peer, for `corsia bench features --peers DIR`. Run by hand: the command itself fetches nothing.
# mirp needs 1.8 GB. pyradiomics is part of the extra `dev` and needs none.
# Usage: benchmarks/features-peers.sh [DIR]
set -eu
dir=${1:-benchmarks/.peers}
mkdir -p "$dir"
for pin in mirp==2.7.0; do
    env="$dir/${pin%%=*}"
    [ -x "$env/bin/python" ] || python3 -m venv "$env"
    "$env/bin/pip" install --quiet --no-input "$pin" || echo "not installed: $pin" >&2
done
