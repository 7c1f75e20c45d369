#!/usr/bin/env bash
# What the shipped base and compositions are worth on real recordings: five folds, and three seeds of whatever is trained,
# against joint training, a random start and mel statistics. BIOPHONY_DATA is a folder with clips.csv. Takes hours: one
# fold and one seed of the table take eight minutes of one processor to train and six to compose, fit and score.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [[ ! -f ${BIOPHONY_DATA:-}/clips.csv ]]; then
    echo "skipped: BIOPHONY_DATA names no folder with clips.csv"
    exit 0
fi
recordings=$(realpath "$BIOPHONY_DATA")/clips.csv
run() { # PIPELINE NAME [OPTION...]
    printf '\n%s %s\n' "$1" "${*:3}"
    build/bin/biophony run "examples/pipelines/real/$1.json" --out "build/real-$2" --store build/store \
        --set "params.recordings=$recordings" "${@:3}" | sed -n '/^  *clips  /,$p'
}
run base base
# One thread a run and as many runs as processors: at this size more threads a run gain little.
printf '%s\n' {0..4},{1..3} | xargs -P "$(nproc)" -I PAIR bash -c 'fold=${0%,*} seed=${0#*,}
    build/bin/biophony run examples/pipelines/real/table.json --out "build/real-table-$fold-$seed" --store build/store --threads 1 \
        --set "params.recordings='"$recordings"'" --set "axes.fold=[$fold]" --set "axes.seed=[$seed]" >/dev/null 2>&1' PAIR
run table table --threads 1
