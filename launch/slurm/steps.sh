#!/usr/bin/env bash
# What single.sh and multi.sh do inside the job: one task a process; queued again while the run is not finished.
set -euo pipefail
# Of the node's GPUs JAX would take one per task; there is one task per node here.
if [[ ${SLURM_GPUS_ON_NODE:-} =~ ^[0-9]+$ ]]; then
  JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((SLURM_GPUS_ON_NODE - 1)))
  export JAX_LOCAL_DEVICE_IDS
fi
# Slurm's SIGTERM before the end of time goes to the tasks; this shell must outlive it to queue the job again.
trap : TERM
srun python -m mer_jax.main "$@" --distributed=auto --stopped_exit_code=85 && code=0 || code=$?
if [[ $code == 85 && $(squeue -h -j "$SLURM_JOB_ID" -o %T) == RUNNING ]]; then # and not cancelled
  echo "saved, not finished: queued again"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
