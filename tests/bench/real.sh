#!/usr/bin/env bash
# What the shipped base and the composition are worth on real recordings: five folds each, against a random start and
# mel statistics. BIOPHONY_DATA is a folder with clips.csv; hours are not needed, but most of one is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [[ ! -f ${BIOPHONY_DATA:-}/clips.csv ]]; then
    echo "skipped: BIOPHONY_DATA names no folder with clips.csv"
    exit 0
fi
store=build/store
for pipeline in base three-taxa; do
    for limit in 0 4000; do
        printf '\n%s.json, band_limit_hz %s\n' "$pipeline" "$limit"
        build/bin/biophony run "examples/pipelines/real/$pipeline.json" --out "build/real-$pipeline-$limit" --store "$store" \
            --set "params.recordings=$(realpath "$BIOPHONY_DATA")/clips.csv" --set "params.band_limit_hz=$limit" |
            sed -n '/^  *clips  /,$p'
    done
done
