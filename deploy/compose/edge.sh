#!/bin/sh
# What the edge's container does: enrol once, when a join code is given and there is no certificate yet, then run.
# `docker compose run --rm edge status` and the like reach every other `corsia edge` command.
set -eu
config=${CORSIA_EDGE_CONFIG:-/etc/corsia/edge.toml}
state=${CORSIA_EDGE_STATE_DIR:?where the state lies}
code=${CORSIA_JOIN_CODE:-}
unset CORSIA_JOIN_CODE

case ${1:-run} in
run) ;;
health)
  corsia edge status --config "$config" --json | grep -q '"running": true'
  exit
  ;;
*)
  exec corsia edge "$@" --config "$config"
  ;;
esac
if [ -n "$code" ] && [ ! -e "$state/enrolment.json" ]; then
  printf '%s\n' "$code" | corsia edge enroll --config "$config" --code -
fi
exec corsia edge run --config "$config"
