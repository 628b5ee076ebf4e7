#!/bin/bash
# A search by many workers on a Slurm cluster: every task of the array is started with the same command and
# takes the next trial from the shared folder. Submit it again, at any time, for more workers.
#
#   sbatch scripts/sweep_slurm.sh my_search.toml /shared/sweeps/my_search
#
# my_search.toml is a config with a [sweep] section. A task that is preempted or reaches its time limit gets
# SIGTERM, saves its trial, and leaves it to the next worker that is free; after a SIGKILL that worker goes on
# from the trial's last checkpoint (train.checkpoint_minutes). The folder's file system must know file locks
# (NFSv4, Lustre mounted with flock, GPFS); where it does not, a dead worker's trial stays as it is.
#SBATCH --job-name=cnn-sweep
#SBATCH --array=1-8
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@60
#SBATCH --requeue

set -euo pipefail
config=${1:?a config with a [sweep] section}
folder=${2:?a folder that all nodes share}

srun cnn sweep "$config" --out "$folder" --threads "${SLURM_CPUS_PER_TASK:-1}"
