#!/usr/bin/env bash
# A run on a GKE cluster, as a JobSet made by xpk (pip install xpk). One pod per host; JAX finds the others by itself.
#
#   CLUSTER=c ZONE=us-central2-b IMAGE=REGISTRY/mer_jax WORKLOAD=x launch/gke/train.sh \
#       --config=configs/lsgmer.py --workdir=gs://BUCKET/x [any flag of mer_jax.main]
#
# Set:      CLUSTER, ZONE, PROJECT: where xpk made the cluster. IMAGE: launch/docker/Dockerfile built and pushed.
#           TPU=v5litepod-16 and SLICES=1, or DEVICE=h100-80gb-8 and NODES=1; SPOT=yes; RESTARTS=100. --workdir in a
#           bucket.
# Try it:   DRY=yes prints what would be created and costs nothing.
# Resume:   by itself: a pod that is taken away saves and exits; the JobSet is started again until the run is finished.
#           By hand: the same command with another WORKLOAD.
set -euo pipefail
case "$*" in
  *--workdir=gs://*) ;;
  *)
    echo "error: --workdir=gs://BUCKET/FOLDER is missing: pods have no disk of their own that lasts" >&2
    exit 2
    ;;
esac
# exec: the signal to go must reach Python. 42 is xpk's code for "start again"; 0 would mean that the work is done.
command="exec python -m mer_jax.main"
for flag in "$@" --stopped_exit_code=42; do command+=" $(printf %q "$flag")"; done
if [[ -z ${DEVICE:-} ]]; then
  device=(--tpu-type="${TPU:-v5litepod-16}" --num-slices="${SLICES:-1}")
  command+=" --distributed=auto"
else
  device=(--device-type="$DEVICE" --num-nodes="${NODES:-1}")
  # shellcheck disable=SC2016 # for the pod's shell: xpk tells it there where the others are
  command+=' --distributed=$JAX_COORDINATOR_ADDRESS:$JAX_COORDINATOR_PORT,$NNODES,$NODE_RANK'
fi
xpk workload create \
  --cluster="${CLUSTER:?set CLUSTER}" --zone="${ZONE:?set ZONE}" ${PROJECT:+--project="$PROJECT"} \
  --workload="${WORKLOAD:?set WORKLOAD, a new name}" --docker-image="${IMAGE:?set IMAGE}" --docker-name=mer-jax \
  "${device[@]}" \
  ${SPOT:+--spot} --max-restarts="${RESTARTS:-100}" --restart-on-exit-codes=1 --termination-grace-period-seconds=120 \
  --command="$command" \
  ${DRY:+--dry-run --skip-validation}
