#!/bin/sh
# What the centre's container does: write central.toml from the environment, at each start, and serve.
# `docker compose exec centre corsia ... --config /var/lib/corsia/central.toml` reaches the command line; `mlflow` as the
# first word starts the MLflow server instead.
set -eu
home=${CORSIA_CENTRAL_HOME:?where the state lies}
config=$home/central.toml

# A text as TOML: what would end a string or a line is refused.
text() {
  case $1 in *[\"\\]* | *'
'*) echo "corsia: a setting holds a quote, a backslash or a line break" >&2; exit 2 ;; esac
  printf '"%s"' "$1"
}

write() {
  [ -e "$home/state/operator.token" ] || corsia init central --out "$config" --force
  name=$(text "${CORSIA_NAME:-consortium}")
  host=$(text "${CORSIA_HOST:?the name under which hospitals reach this machine}")
  uri=$(text "${CORSIA_MLFLOW_URI:-http://127.0.0.1:5000}")
  issuer=$(text "${CORSIA_OIDC_ISSUER:-}")
  client=$(text "${CORSIA_OIDC_CLIENT_ID:-}")
  back=$(text "${CORSIA_PUBLIC_URL:-}/auth/callback")
  operators=$(text "${CORSIA_OIDC_OPERATORS:-}")
  {
    echo "# Written by the container from its environment: change that, not this."
    echo "name = $name"
    echo 'state_dir = "state"'
    echo "[gateway]"
    echo 'host = "0.0.0.0"'
    echo "port = ${CORSIA_PORT:-7443}"
    echo "enrolment_port = ${CORSIA_ENROLMENT_PORT:-7444}"
    echo "names = [$host, \"127.0.0.1\", \"localhost\"]"
    echo "certificate_days = ${CORSIA_CERTIFICATE_DAYS:-7}"
    echo "[web]"
    echo 'host = "0.0.0.0"' # within the container; compose publishes it on the machine's loopback alone
    echo "port = 7480"
    echo "[mlflow]"
    echo "tracking_uri = $uri"
    if [ -n "${CORSIA_PUBLIC_URL:-}" ] && [ -n "${CORSIA_OIDC_ISSUER:-}" ]; then
      echo "[identity]"
      echo "issuer = $issuer"
      echo "client_id = $client"
      echo "redirect_uri = $back"
      echo "[identity.roles]"
      echo "operator = [$operators]"
    fi
  } > "$config.new"
  mv "$config.new" "$config"
}

case ${1:-serve} in
serve)
  write
  exec corsia central serve --config "$config"
  ;;
mlflow)
  exec env MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false DO_NOT_TRACK=1 MLFLOW_DISABLE_TELEMETRY=true mlflow server \
    --host 127.0.0.1 --port 5000 --backend-store-uri "sqlite:///$home/mlflow.db" --artifacts-destination "$home/artifacts"
  ;;
health)
  exec python -c 'import socket; socket.create_connection(("127.0.0.1", 7480), 5).close()'
  ;;
write)
  write
  ;;
*)
  exec corsia "$@"
  ;;
esac
