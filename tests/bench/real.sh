#!/usr/bin/env bash
# What the shipped base and the composition are worth on real recordings: five folds each, against a random start and
# mel statistics. BIOPHONY_DATA is a folder with clips.csv; hours are not needed, but most of one is.
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
run three-taxa three-taxa
run three-taxa three-taxa-below-4-kHz --set params.band_limit_hz=4000
