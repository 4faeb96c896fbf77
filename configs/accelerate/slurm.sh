#!/bin/bash
# Four machines of eight GPUs under SLURM: one launcher per machine, which starts its eight processes.
#   sbatch configs/accelerate/slurm.sh clip_b16.yaml 'data.train=/shards/{00000..01243}.tar'
# 120 s before the job's time is up this script is told; the run then saves, and the job is queued again and goes on
# from there, until its last step. What fails by itself is not queued again. A save must fit into those seconds (and,
# as launchers have it, into 30): save.every_minutes bounds what is lost where it does not.
#SBATCH --job-name=mmclr
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
set -uo pipefail

export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export OMP_NUM_THREADS=1

asked=""
trap 'asked=yes; scancel --signal=TERM "$SLURM_JOB_ID"' TERM # to the steps of the job, not to this script

# $SLURM_NODEID differs from machine to machine, so it is read by the shell that srun starts there. It makes way for
# the launcher: a shell that the signal ends would take the launcher with it before the run has saved.
srun bash -c 'exec accelerate launch \
  --config_file configs/accelerate/8_gpus.yaml \
  --num_machines "$SLURM_NNODES" --num_processes $((8 * SLURM_NNODES)) --machine_rank "$SLURM_NODEID" \
  --main_process_ip "$MASTER_ADDR" --main_process_port "$MASTER_PORT" \
  -m mmclr.train "$@"' train "$@" &

status=0
wait $! || status=$?
while [ -n "$(jobs -r)" ]; do # the signal ended the wait, not the run
  wait %1
  status=$?
done

# Launchers have statuses of their own for a run that was stopped (accelerate 1.15: 1), so it is the signal that tells.
if [ -n "$asked" ] && [ "$status" != 0 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
