#!/bin/sh
# The recipes of docs/recipes.md on one data set, a seed each time:
#   DATA="--dataset CIRR --data-path scenes --cache-features features" SEEDS="0 1 2" OUTPUT=runs/recipes scripts/recipes.sh
# A run that is complete is not run again. FIRST and LATER are the epochs of the first run and of all
# that follow it. `longer` is the control: ordinary training from the same weights, as long.
set -eu
PYTHON=${PYTHON:-python} SEEDS=${SEEDS:-0 1 2 3 4} OUTPUT=${OUTPUT:-runs/recipes}
FIRST=${FIRST:-8} LATER=${LATER:-2} RATE=${RATE:-2e-4}
DATA=${DATA:---dataset CIRR --data-path scenes --cache-features features}
CONFIG=${CONFIG:---config configs/tiny.yaml}

run() {  # NAME SEED words of gatedcir train
    folder=$OUTPUT/$1/seed$2
    [ -e "$folder/done.log" ] && return
    rm -rf "$folder"
    seed=$2
    shift 2
    "$PYTHON" -m gatedcir train "$@" --seed "$seed" --no-save-training --quiet --output "$folder"
    touch "$folder/done.log"
}

for seed in $SEEDS; do
    first=$OUTPUT/first/seed$seed
    # shellcheck disable=SC2086  # DATA and CONFIG are several words
    run first "$seed" $CONFIG $DATA --num-epochs "$FIRST"
    cached=$(echo "$DATA" | sed -n 's/.*--cache-features \([^ ]*\).*/--cache-features \1/p')
    # shellcheck disable=SC2086
    run longer "$seed" $CONFIG $DATA --backbone "$first" --num-epochs "$LATER" --learning-rate "$RATE"
    for branch in second both none; do
        # shellcheck disable=SC2086
        run "bank-$branch" "$seed" --stage bank --from "$first" $cached --model.query-branch "$branch" \
            --num-epochs "$LATER" --batch-size 64 --learning-rate "$RATE"
    done
    # shellcheck disable=SC2086
    run rerank "$seed" --stage rerank --from "$first" $cached --num-epochs "$LATER" --batch-size 32 \
        --learning-rate 5e-4
done
