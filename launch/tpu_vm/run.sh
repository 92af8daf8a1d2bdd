#!/usr/bin/env bash
# Starts a run on all workers of the TPU made by create.sh, and returns; it goes on without this terminal.
#
#   ZONE=us-central2-b [NAME=mer-jax] launch/tpu_vm/run.sh \
#       --config=configs/lsgmer.py --workdir=gs://BUCKET/x [any flag of mer_jax.main]
#
# Set:      --workdir in a bucket that the TPU may write: all workers must see it. Corpora named by --config.data.path
#           must lie on every worker.
# Cost:     nothing beyond the TPU itself.
# Watch:    launch/tpu_vm/logs.sh
# Resume:   the same command, also after a spot TPU was taken away and created again, also with another TYPE.
set -euo pipefail
cd "$(dirname "$0")/../.."
. launch/tpu_vm/settings.sh
command=
for flag in "$@"; do command+=" $(printf %q "$flag")"; done
gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="
  cd mer_jax && nohup setsid ../venv/bin/python -m mer_jax.main$command --distributed=auto \
    >> ../mer_jax.log 2>&1 < /dev/null & echo started"
