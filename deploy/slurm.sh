#!/bin/bash
# sbatch deploy/slurm.sh: a training run shared by the processes of several machines.
#SBATCH --job-name=eenet
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
set -euo pipefail
export OMP_NUM_THREADS=4
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
out=runs/imagenet
resume=()
if [[ -e $out/training_state.pt ]]; then resume=(--resume); fi # after a stop, the same job goes on
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 4 \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$first:29500" \
    -m eenet train imagenet-resnet50 --out "$out" "${resume[@]}"
