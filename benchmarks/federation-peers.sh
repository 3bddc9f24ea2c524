#!/bin/sh
# One virtual environment a peer, for `corsia bench federation --peers DIR`. Run by hand: the command itself fetches nothing.
# Flower is part of the product's own environment and needs none.
# Usage: benchmarks/federation-peers.sh [DIR]
set -eu
dir=${1:-benchmarks/.peers}
mkdir -p "$dir"
for pin in nvflare==2.6.0; do
    env="$dir/${pin%%=*}"
    [ -x "$env/bin/python" ] || python3 -m venv "$env"
    "$env/bin/pip" install --quiet --no-input "$pin" || echo "not installed: $pin" >&2
done
