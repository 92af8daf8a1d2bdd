#!/usr/bin/env bash
# What single.sh and multi.sh do inside the job: one task a process; queued again while the run is not finished.
set -euo pipefail
# Slurm's SIGTERM before the end of time goes to the tasks; this shell must outlive it to queue the job again.
trap : TERM
srun python -m mer_jax.main "$@" --distributed=auto --stopped_exit_code=85 && code=0 || code=$?
if [[ $code == 85 ]]; then
  echo "saved, not finished: queued again"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
