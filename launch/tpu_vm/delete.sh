#!/usr/bin/env bash
# Deletes the TPU, and with it everything on its disks; what is in the bucket stays.
#
#   ZONE=us-central2-b [NAME=mer-jax] launch/tpu_vm/delete.sh
#
# Cost:     ends the billing.
# Resume:   create.sh, then run.sh with the same --workdir.
set -euo pipefail
cd "$(dirname "$0")/../.."
. launch/tpu_vm/settings.sh
exec gcloud compute tpus tpu-vm delete "$NAME" --zone="$ZONE" --quiet
