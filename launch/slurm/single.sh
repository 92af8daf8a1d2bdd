#!/usr/bin/env bash
# One node of a Slurm cluster: one process, all its GPUs.
#
#   sbatch [-p PARTITION] [--gres=gpu:8] launch/slurm/single.sh \
#       --config=configs/lsgmer.py --workdir=/shared/x [any flag of mer_jax.main]
#
# Set:      partition, account, GPUs and time by sbatch's own flags, as your cluster wants them. An environment with
#           mer_jax must be active when you submit. --workdir on a file system that every node sees.
# Try it:   sbatch --test-only launch/slurm/single.sh costs nothing; --time=5 with --config=configs/lsgmer.py:tiny costs
#           minutes.
# Resume:   by itself: two minutes before its time is over, or when it is preempted, the job saves, ends, and is queued
#           again until the run is finished. By hand: the same command.
#SBATCH --job-name=mer_jax
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append
#SBATCH --output=mer_jax-%j.log
exec "${SLURM_SUBMIT_DIR:-.}/launch/slurm/steps.sh" "$@"
