#!/bin/bash
# Fine-tune under Slurm, and go on after a preemption or the time limit:
#   sbatch scripts/slurm_train.sh runs/cirr --config configs/cirr.yaml --batch-size 64
# The first argument is the run's folder, the rest are flags of training. The state is saved after
# every epoch and every ten minutes; at most ten minutes are trained again.
#SBATCH --job-name=gatedcir
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
set -euo pipefail

usage="usage: sbatch scripts/slurm_train.sh RUN_FOLDER [FLAGS OF TRAINING]

Fine-tune under Slurm in RUN_FOLDER, and go on after a preemption or the time limit, for instance:
    sbatch scripts/slurm_train.sh runs/cirr --config configs/cirr.yaml --batch-size 64
python src/blip_fine_tune_2.py --help lists the flags of training."
case ${1:-} in
    -h | --help) echo "$usage"; exit 0 ;;
    "" | -*) echo "$usage" >&2; exit 2 ;;
esac
if [[ -z ${SLURM_JOB_NODELIST:-} ]]; then
    echo "error: this is no Slurm job; submit the script with sbatch." >&2
    exit 2
fi
run=$1
shift
if [[ -f $run/checkpoints/last.pt || -f $run/checkpoints/before_last.pt ]]; then
    flags=(--resume "$run")
else
    # Cut off before its first save, a run has left nothing to go on with.
    if [[ -d $run ]]; then mv "$run" "$run.unfinished-${SLURM_RESTART_COUNT:-0}"; fi
    flags=("$@" --save-training --output "$run")
fi

# Two minutes before the time limit Slurm signals this shell, which asks to be started again.
trap 'scontrol requeue "$SLURM_JOB_ID"' USR1
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# What follows -c is read by each machine's own shell, for the number that Slurm gave it.
srun bash -c 'exec accelerate launch --config_file configs/accelerate/two_nodes_ddp.yaml \
    --machine_rank "$SLURM_NODEID" --main_process_ip "$0" src/blip_fine_tune_2.py "$@"' \
    "${hosts[0]}" "${flags[@]}" &
# A signal ends the first wait; the second one waits for the training that goes on meanwhile.
wait $! || wait $!
