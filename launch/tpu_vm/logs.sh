#!/usr/bin/env bash
# Shows what the run on the TPU says, as it says it. Only the first worker talks; errors are in every worker's log.
#
#   ZONE=us-central2-b [NAME=mer-jax] [WORKER=0] launch/tpu_vm/logs.sh
#
# Cost:     nothing. Ctrl-C ends the watching, not the run.
set -euo pipefail
cd "$(dirname "$0")/../.."
. launch/tpu_vm/settings.sh
exec gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker="${WORKER:-0}" \
  --command='tail -n 100 -f mer_jax.log'
