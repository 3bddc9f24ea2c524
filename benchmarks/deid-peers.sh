#!/bin/sh
# One virtual environment a peer, for `corsia bench deid --peers DIR`. Run by hand: the command itself fetches nothing.
# Usage: benchmarks/deid-peers.sh [DIR]
set -eu
dir=${1:-benchmarks/.peers}
mkdir -p "$dir"
for pin in dicom-anonymizer==2.1.0 deid==0.4.13 dcm-anonymizer==0.5.0 dcmanon==0.3.1 anjana==1.2.3 \
    presidio-analyzer==2.2.366; do
    env="$dir/${pin%%=*}"
    [ -x "$env/bin/python" ] || python3 -m venv "$env"
    "$env/bin/pip" install --quiet --no-input "$pin" || echo "not installed: $pin" >&2
done
