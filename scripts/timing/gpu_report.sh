#!/bin/bash
# What a GPU does with this project, in under eight minutes, as one Markdown file:
#   bash scripts/timing/gpu_report.sh report.md          steps, compiled step, evaluation, memory, test suite
#   bash scripts/timing/gpu_report.sh report.md --tiny   the same commands at tiny sizes, to try them on a CPU
# A command that fails or takes too long is named in the file, and the next one runs.
set -uo pipefail
if [[ ${1:---help} == --help ]]; then sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 0; fi
report=$(realpath -m "$1")
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
export PYTHONPATH=$PWD/src PYTHONUNBUFFERED=1
if [[ ${2:-} == --tiny ]]; then
    backbone=tiny batches=(2 4) compiled=4 queries=(--queries 64 --images 64) tests=(tests/test_errors.py)
else
    backbone=random-vit-g batches=(32 64 128) compiled=128 queries=() tests=()
fi
mkdir -p "$(dirname "$report")"
{
    echo "# $(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null || echo 'no GPU'), $(date +%F)"
    "$python" -c 'import torch, transformers; print("\ntorch", torch.__version__, "transformers", transformers.__version__)'
} > "$report"
section() { # title, seconds, command
    local title=$1 limit=$2 status=0
    shift 2
    printf '\n## %s\n\n```\n$ %s\n' "$title" "$*" >> "$report"
    timeout "$limit" "$@" 2>&1 | tr '\r' '\n' | grep -vE '^ *$|it/s|s/it|Warning|warn' | tail -n 40 >> "$report" || status=$?
    printf '```\n' >> "$report"
    if ((status)); then echo "**ended with status $status**" >> "$report"; fi
}
for batch in "${batches[@]}"; do
    section "Step, batch of $batch" 100 "$python" scripts/timing/bench_step.py --backbone "$backbone" --batch-size "$batch" --repeats 3
done
section "Compiled step" 200 "$python" scripts/timing/bench_step.py --backbone "$backbone" --batch-size "$compiled" --repeats 3 --compile
section "Tower, step, evaluation and memory" 100 "$python" src/blip_fine_tune_2.py --dataset CIRR --backbone "$backbone" --batch-size "${batches[-1]}" --dry-run
section "Ranking from features" 100 "$python" scripts/timing/bench_evaluation.py "${queries[@]}"
# Threads of many processes would wait for one another: two each.
section "Test suite" 200 env OMP_NUM_THREADS=2 "$python" -m pytest -q --tb=line --numprocesses auto --dist loadfile -p no:cacheprovider "${tests[@]}"
echo "$report"
