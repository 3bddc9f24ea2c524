#!/bin/bash
# slurm.sh start|stop: a throw-away one-node Slurm with munge, as root inside a network namespace (tests/integration/test_batch.py).
# After start: export SLURM_CONF=$WORKDIR/slurm/slurm.conf ; sbatch --wait job.sh
set -euo pipefail
: "${WORKDIR:?set WORKDIR to a scratch directory}"
dir=$WORKDIR/slurm; host=$(hostname)
case ${1:?start or stop} in
  start)
    mkdir -p "$dir/state" "$dir/spool" "$dir/run"; chmod 755 "$dir"
    [ -e "$dir/munge.key" ] || head -c 1024 /dev/urandom >"$dir/munge.key"
    chmod 400 "$dir/munge.key"
    munged --force --key-file="$dir/munge.key" --socket="$dir/run/munge.sock" \
      --pid-file="$dir/run/munged.pid" --log-file="$dir/run/munged.log" --seed-file="$dir/run/munged.seed"
    cat >"$dir/slurm.conf" <<C
ClusterName=edge
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort=26817
SlurmdPort=26818
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket=$dir/run/munge.sock
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
NodeName=localhost NodeAddr=127.0.0.1 NodeHostname=$host CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=edge Nodes=localhost Default=YES MaxTime=INFINITE State=UP
C
    export SLURM_CONF=$dir/slurm.conf
    slurmctld -D >"$dir/slurmctld.out" 2>&1 & echo $! >"$dir/run/ctld"
    slurmd -D -N localhost >"$dir/slurmd.out" 2>&1 & echo $! >"$dir/run/d"
    for _ in $(seq 50); do
      timeout 2 sinfo -h -o %T 2>/dev/null | grep -q idle && exit 0; sleep 0.2
    done
    tail "$dir"/*.log >&2; exit 1 ;;
  stop)
    for f in d ctld munged.pid; do kill "$(cat "$dir/run/$f")" 2>/dev/null || true; done; sleep 1
    for f in d ctld; do kill -9 "$(cat "$dir/run/$f")" 2>/dev/null || true; done ;;
esac
