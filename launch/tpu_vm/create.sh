#!/usr/bin/env bash
# Creates a TPU VM (or a pod of them) and installs this checkout on every worker.
#
#   ZONE=us-central2-b TYPE=v5litepod-16 [NAME=mer-jax] [VERSION=v2-alpha-tpuv5-lite] [SPOT=yes] launch/tpu_vm/create.sh
#
# Set:      the project by `gcloud config set project`; ZONE and TYPE as your quota allows.
# Cost:     billed by the second from the moment it exists until delete.sh, also while idle.
# Again:    an existing TPU is kept; the checkout is copied and installed anew.
set -euo pipefail
cd "$(dirname "$0")/../.."
. launch/tpu_vm/settings.sh
tpu=(gcloud compute tpus tpu-vm)
state=$("${tpu[@]}" describe "$NAME" --zone="$ZONE" --format='value(state)' 2>/dev/null || true)
if [[ $state == PREEMPTED || $state == TERMINATED ]]; then # a spot TPU that was taken away
  "${tpu[@]}" delete "$NAME" --zone="$ZONE" --quiet
  state=
fi
if [[ -z $state ]]; then
  "${tpu[@]}" create "$NAME" --zone="$ZONE" --accelerator-type="$TYPE" --version="$VERSION" ${SPOT:+--spot}
fi
archive=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$archive"' EXIT
git archive --format=tar.gz --output="$archive" HEAD
"${tpu[@]}" scp "$archive" "$NAME:mer_jax.tar.gz" --zone="$ZONE" --worker=all
"${tpu[@]}" ssh "$NAME" --zone="$ZONE" --worker=all --command='
  set -e
  rm -rf mer_jax && mkdir mer_jax && tar -xzf mer_jax.tar.gz -C mer_jax
  curl -LsSf https://astral.sh/uv/install.sh | sh  # brings a Python of its own; the one of the runtime may be too old
  ~/.local/bin/uv venv --allow-existing --python 3.12 venv
  ~/.local/bin/uv pip install -q --python venv/bin/python -e "mer_jax[tpu,gcs]"'
echo "ready; next: launch/tpu_vm/run.sh --config=... --workdir=gs://BUCKET/..."
