#!/usr/bin/env bash
# Several nodes of a Slurm cluster: one process a node, as one run. JAX reads from Slurm who they are.
#
#   sbatch --nodes=4 [-p PARTITION] [--gres=gpu:8] launch/slurm/multi.sh \
#       --config=configs/lsgmer.py --workdir=/shared/x [any flag of mer_jax.main]
#
# Set:      as in single.sh; --nodes says how many processes there are.
# Try it:   sbatch --test-only --nodes=2 launch/slurm/multi.sh costs nothing; configs/lsgmer.py:tiny on two nodes costs
#           minutes.
# Resume:   as in single.sh; the number of nodes may differ.
#SBATCH --job-name=mer_jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append
#SBATCH --output=mer_jax-%j.log
exec "${SLURM_SUBMIT_DIR:-.}/launch/slurm/steps.sh" "$@"
