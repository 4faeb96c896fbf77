#!/bin/bash
# Four machines of eight GPUs under SLURM: one launcher per machine, which starts its eight processes.
#   sbatch configs/accelerate/slurm.sh clip_b16.yaml 'data.train=/shards/{00000..01243}.tar'
# The job is told 120 s before its time is up; the run then saves, and the requeued job goes on from there.
#SBATCH --job-name=mmclr
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --output=%x-%j.out
set -euo pipefail

export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export OMP_NUM_THREADS=1

# $SLURM_NODEID differs from machine to machine, so it is read by the shell that srun starts there.
srun bash -c 'accelerate launch \
  --config_file configs/accelerate/8_gpus.yaml \
  --num_machines "$SLURM_NNODES" --num_processes $((8 * SLURM_NNODES)) --machine_rank "$SLURM_NODEID" \
  --main_process_ip "$MASTER_ADDR" --main_process_port "$MASTER_PORT" \
  -m mmclr.train "$@"' train "$@"
