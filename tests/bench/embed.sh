#!/usr/bin/env bash
# Embedding a folder with the small base, against the floor of hearing the same files: an encoder without weights, which
# is decoding, resampling and the filter bank and next to nothing else. BIOPHONY_SOUNDS names another folder, and
# BIOPHONY_CHECKPOINT another encoder file of this program.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
sounds=${BIOPHONY_SOUNDS:-$folder/sounds}
checkpoint=${BIOPHONY_CHECKPOINT:-examples/models/beats-small.safetensors}
[[ -n ${BIOPHONY_SOUNDS:-} ]] || python3 - "$sounds" <<'PYTHON'
import os, sys, wave
os.mkdir(sys.argv[1])
for i in range(40):  # noise, half a minute each, as recorders give it
    with wave.open(f"{sys.argv[1]}/{i:02}.wav", "wb") as out:
        out.setparams((1, 2, 48000, 0, "NONE", ""))
        out.writeframes(os.urandom(2 * 48000 * 30))
PYTHON
floor=
line() { # NAME ARGUMENT...: the program's own figure, without the time to load
    local told times
    told=$(build/bin/biophony embed "$sounds" --out "$folder/out.csv" "${@:2}" 2>"$folder/errors" || (($? == 6))) || {
        cat "$folder/errors" >&2
        return 1
    }
    times=$(sed -n 's/.* \([0-9.]*\) x real time.*/\1/p' <<<"$told")
    : "${floor:=$times}"
    awk -v n="$1" -v t="$times" -v f="$floor" 'BEGIN { printf "%-36s %10.0f %10.3f\n", n, t, t / f }'
}
printf '%-36s %10s %10s\n' "windows of 3 s" "x real time" "of floor"
line "floor: mel-statistics" --encoder mel-statistics --window 3
for batch in 1 4 8 16 32; do line "batch $batch" --checkpoint "$checkpoint" --window 3 --batch "$batch"; done
line "batch 8, bf16" --checkpoint "$checkpoint" --window 3 --precision bf16
line "batch 8, one thread" --checkpoint "$checkpoint" --window 3 --threads 1
line "whole files" --checkpoint "$checkpoint"
