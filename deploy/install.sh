#!/bin/sh
# Install, upgrade and roll back Corsia as a systemd service, from a wheelhouse (deploy/wheelhouse.py) and with no index.
#
#   sh install.sh edge               install this wheelhouse, or upgrade to it
#   sh install.sh edge rollback      the release before is put back
#
# Each release is an environment of its own below /opt/corsia; a link says which one runs. State (keys, spool, journal, ledger) lies
# in /var/lib/corsia-edge and belongs to no release: neither step copies, moves or removes a file of it. `central` likewise.
set -eu
umask 022

seat=${1:-} verb=${2:-install}
here=$(cd "$(dirname "$0")" && pwd)
prefix=${CORSIA_PREFIX:-/opt/corsia} etc=${CORSIA_ETC:-/etc} state=${CORSIA_STATE:-/var/lib/corsia-$seat}
python=${CORSIA_PYTHON:-python3} user=${CORSIA_USER:-corsia-$seat} config=${CORSIA_CONFIG:-/etc/corsia/$seat.toml}
unit=corsia-$seat backups=${CORSIA_BACKUPS:-/var/backups/corsia}

# No index and no other folder of wheels, whatever this machine's pip is set to.
export PIP_CONFIG_FILE=/dev/null
unset PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_CONSTRAINT

say() { echo "corsia: $*" >&2; }
fail() { say "$*"; exit 1; }
as_user() { if [ "$(id -un)" = "$user" ]; then "$@"; else runuser -u "$user" -- "$@"; fi; }
point() { ln -s "$1" "$prefix/.$2.new" && mv -T "$prefix/.$2.new" "$prefix/$2"; } # one rename: never a moment without

# Environment of the release that the wheelhouse holds, made beside the others. An unfinished one is made anew.
make_release() {
  (cd "$here" && sha256sum --quiet --check --strict SHA256SUMS) || fail "the wheelhouse is damaged or was changed: copy it again"
  # shellcheck disable=SC2012
  version=$(cd "$here" && ls corsia-*.whl | cut -d- -f2)
  release=$version-$(sha256sum < "$here/SHA256SUMS" | cut -c1-12)
  [ ! -e "$prefix/releases/$release/.complete" ] || return 0
  rm -rf "$prefix/releases/$release"
  mkdir -p "$prefix/releases"
  "$python" -m venv "$prefix/releases/$release"
  "$prefix/releases/$release/bin/python" -m pip install --quiet --disable-pip-version-check --no-index \
    --find-links "$here" --require-hashes -r "$here/requirements.txt" || fail "pip could not install; nothing was changed"
  "$prefix/releases/$release/bin/corsia" --version > /dev/null || fail "the new release does not start; nothing was changed"
  touch "$prefix/releases/$release/.complete"
}

# The state as it is before the change, sealed to the recovery key, by the release that runs. Without such a key: said, and on.
back_up() {
  [ -e "$state/recovery.pub" ] || { say "no recovery key: no backup is made (corsia $seat recovery-key)"; return 0; }
  install -d -m 700 -o "$user" "$backups"
  as_user "$prefix/current/bin/corsia" "$seat" backup "$backups/$seat-$(date -u +%Y%m%dT%H%M%SZ).backup" --config "$config"
}

switch() { # to a release; the one that ran becomes `previous`
  old=$(readlink "$prefix/current" || true) older=$(readlink "$prefix/previous" || true)
  [ "$old" = "$1" ] && { say "$1 runs already"; return 0; }
  systemctl stop "$unit" || fail "$unit does not stop; nothing was changed"
  [ -z "$old" ] || point "$old" previous
  point "$1" current
  if systemctl start "$unit"; then say "$unit runs ${1#releases/}"; return 0; fi
  systemctl stop "$unit" || true
  [ -n "$old" ] || fail "$unit does not start: journalctl -u $unit"
  point "$old" current
  if [ -n "$older" ]; then point "$older" previous; else rm "$prefix/previous"; fi
  systemctl start "$unit" || fail "neither ${1#releases/} nor ${old#releases/} starts: journalctl -u $unit"
  fail "${1#releases/} did not start; ${old#releases/} runs again. journalctl -u $unit tells why; storage.newer: the tables have changed (docs/deploy.md)"
}

install_unit() {
  id "$user" > /dev/null 2>&1 || { install -D -m 644 "$here/corsia.sysusers.conf" "$etc/sysusers.d/corsia.conf" && systemd-sysusers; }
  install -D -m 644 "$here/$unit.service" "$etc/systemd/system/$unit.service"
  systemctl daemon-reload
  mkdir -p "$etc/corsia"
  [ -d "$state" ] || install -d -m 700 -o "$user" -g "$(id -gn "$user")" "$state" # enrolment comes before the first start
}

case "$seat-$verb" in
edge-install | central-install)
  make_release
  install_unit
  if [ ! -e "$prefix/current" ]; then
    point "releases/$release" current
    say "installed $release; next: $prefix/current/bin/corsia init $seat --out $config --state-dir $state (docs/deploy.md)"
  elif [ ! -e "$config" ]; then
    point "releases/$release" current
  else
    back_up
    switch "releases/$release"
  fi
  ;;
edge-rollback | central-rollback)
  [ -e "$prefix/previous" ] || fail "there is no release before this one"
  switch "$(readlink "$prefix/previous")"
  ;;
*)
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
  ;;
esac
