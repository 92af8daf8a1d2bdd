#!/usr/bin/env bash
# Several processes on this machine, as one run.
#
#   launch/local.sh N --config=configs/lsgmer.py --workdir=runs/x [any flag of mer_jax.main]
#
# What for: trying several processes before there are several machines; one process per GPU (JAX_LOCAL_DEVICES=each).
#   A single process uses all devices of its machine by itself and needs no launcher.
# Set:      JAX_LOCAL_DEVICES=each gives process I only GPU I; not set, every process takes what JAX finds (on a CPU,
#           its own). PORT: where the processes meet; not set, a free one.
# Try it:   launch/local.sh 2 --config=configs/lsgmer.py:tiny --workdir=runs/try      (a minute, no accelerator)
# Resume:   the same command; N may differ.
# Stop:     Ctrl-C or SIGTERM saves and ends all of them.
set -euo pipefail
if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
  sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0" >&2
  exit 2
fi
count=$1
shift
port=${PORT:-$(python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')}
pids=()
for ((i = 0; i < count; i++)); do
  if [[ ${JAX_LOCAL_DEVICES:-} == each ]]; then export CUDA_VISIBLE_DEVICES=$i; fi
  python -m mer_jax.main "$@" --distributed="localhost:$port,$count,$i" &
  pids+=($!)
done
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' INT TERM
code=0
for pid in "${pids[@]}"; do
  found=0
  wait "$pid" || found=$?
  while kill -0 "$pid" 2>/dev/null; do # a signal came in between
    found=0
    wait "$pid" || found=$?
  done
  if ((found && !code)); then code=$found; fi
done
exit "$code"
