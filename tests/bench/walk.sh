#!/usr/bin/env bash
# The whole walk on synthetic data, from nothing and again, against the floor of starting the program for nothing to do.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
folder=$(mktemp -d)
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
export BIOPHONY_CACHE=$folder/cache
seconds() { local begin=$EPOCHREALTIME; "$@" >/dev/null 2>&1; awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.2f", b - a }'; }
run=(build/bin/biophony run examples/pipelines/quickstart.json --out "$folder/run" --store "$folder/store")
first=$(seconds "${run[@]}")
again=$(seconds "${run[@]}")
check=$(seconds build/bin/biophony check examples/pipelines/quickstart.json)
awk -v f="$first" -v a="$again" -v c="$check" 'BEGIN {
    printf "%-28s %8s %8s\n%-28s %8.2f %8.0f\n%-28s %8.2f %8.1f\n%-28s %8.2f %8.1f\n",
        "quickstart.json", "s", "ratio", "run, nothing there", f, f / c, "run again, all cached", a, a / c, "check", c, 1 }'
