#!/usr/bin/env bash
# Merging files, against the floor: all inputs are read once, a megabyte at a time, then one file of the result's size
# is copied, with the engine's durability and as many threads. A second, stricter floor does both in one pass. Inputs
# are made here, in the page cache: checkpoints of a transformer, 8 experts and a base of 90 million float32 parameters.
# What is timed has run once just before: a virtual machine may have to get memory back that lay idle for seconds.
# BIOPHONY_PEERS is a Python with torch, safetensors and mergekit, to be measured beside; without it they are left out.
# They are compared by the fastest round of each, theirs without imports, ours with the start of the program.
# BIOPHONY_BENCH_WIDTH and _BLOCKS (768, 12) make smaller models, _ROUNDS (5) fewer rounds. What is remembered between
# merges (hashes of a base, lengths of experts) is measured both ways. Where the disk has room, 64 experts that are 64
# files are merged as well, of a third of the width; their floor is their own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
width=${BIOPHONY_BENCH_WIDTH:-768} blocks=${BIOPHONY_BENCH_BLOCKS:-12} rounds=${BIOPHONY_BENCH_ROUNDS:-5}
threads=$(nproc) peers=${BIOPHONY_PEERS:-}
((threads <= 16)) || threads=16
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export BIOPHONY_CACHE=$folder/cache THREADS=$threads

c++ -std=c++20 -O2 -pthread tests/bench/merge_floor.cpp -o "$folder/floor"
"$folder/floor" make "$folder" 8 "$width" "$blocks"
experts=("$folder"/expert[0-7].safetensors)
few=("${experts[@]/#/--expert=}") many=()
for _ in {1..8}; do many+=("${few[@]}"); done
mkdir "$folder/distinct"
small=$((width / 48 * 16)) distinct=() # the convolution has groups of 16
if (($(df --output=avail -k "$folder" | tail -n 1) > 64 * small * small * blocks / 16 + 4000000)); then
    "$folder/floor" make "$folder/distinct" 64 "$small" "$blocks"
    distinct=("$folder"/distinct/expert*.safetensors)
fi
python3 tests/bench/merge_vector.py "$folder/base.safetensors" "${experts[@]}" "$folder"
vectors=("$folder"/vector-*.safetensors)
sync "$folder"/*.safetensors "$folder"/distinct
bytes=$(stat -c %s "$folder/base.safetensors")
echo "$threads threads, files of $((bytes / 1000000)) MB, median of $rounds rounds (fastest in brackets)"

elapsed() { # the seconds of a command
    local begin=$EPOCHREALTIME
    "$@" >/dev/null 2>"$folder/errors" || { cat "$folder/errors" >&2; exit 1; }
    awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.4f", b - a }'
}
merge() { # METHOD OUT EXPERT...
    local set=()
    case $1 in
    task-arithmetic) set=(--set lambda_sum=0.3) ;;
    ties.*) [[ $1 == ties.nihal2026 ]] || set=(--set density=0.2) ;;
    esac
    [[ ${digests:-} != yes ]] || set+=(--hash)
    ${as:-} build/bin/biophony merge --method "$1" "${set[@]}" --threads "$threads" --base "${base:-$folder/base.safetensors}" --out "$2" "${@:3}"
}
note() { printf '%s\n' "$2" >>"$folder/seconds.$1"; } # NAME SECONDS
median() { sort -g "$folder/seconds.$1" | awk '{ x[NR] = $1 } END { print (x[int((NR + 1) / 2)] + x[int(NR / 2) + 1]) / 2 }'; }
least() { sort -g "$folder/seconds.$1" | head -n 1; }

floor() { # KIND FILE...: seconds, the second time
    local seconds
    for _ in 1 2; do
        rm -f "$folder/copy"
        seconds=$("$folder/floor" "$1" "$threads" "$folder/copy" "${@:2}")
    done
    rm -f "$folder/copy"
    echo "$seconds"
}
timed() { # NAME METHOD ARGUMENT...: what each merge of the two needs anew is removed by `before`
    local seconds
    for _ in 1 2; do
        rm -f "$folder/out"
        ${before:-:}
        seconds=$(elapsed merge "$2" "$folder/out" "${@:3}")
    done
    rm -f "$folder/out"
    note "$1" "$seconds"
}
forget_lengths() { rm -rf "$BIOPHONY_CACHE/squares"; }
forget_hashes() { # those of the program stay
    [[ ! -d $BIOPHONY_CACHE/hashes ]] || find "$BIOPHONY_CACHE/hashes" -type f ! -name 'file-*' -delete
}
methods=(average task-arithmetic dare ties.global ties.nihal2026 ties.per-tensor)
merge average "$folder/out" "${few[@]}" >/dev/null 2>&1 # plugins are looked at once
sleep 2.1                                               # what is younger isn't remembered
for ((round = 0; round < rounds; ++round)); do
    note floor "$(floor floor "$folder/base.safetensors" "${experts[@]}")"
    note onepass "$(floor onepass "$folder/base.safetensors" "${experts[@]}")"
    for method in "${methods[@]}"; do timed "$method" "$method" "${few[@]}"; done
    timed geometry average "${few[@]}" --geometry "$folder/geometry.json"
    before=forget_lengths timed norms norm-adjusted "${few[@]}"
    timed norms-again norm-adjusted "${few[@]}"
    digests=yes before=forget_hashes timed hashed average "${few[@]}"
    digests=yes timed hashed-again average "${few[@]}"
    before=forget_hashes timed vectors average "${vectors[@]/#/--expert=}"
    timed vectors-again average "${vectors[@]/#/--expert=}"
    note floor-64 "$(floor floor "$folder/base.safetensors" "${many[@]#--expert=}")"
    timed average-64 average "${many[@]}"
    if ((${#distinct[@]})); then
        note floor-distinct "$(floor floor "$folder/distinct/base.safetensors" "${distinct[@]}")"
        base=$folder/distinct/base.safetensors timed average-distinct average "${distinct[@]/#/--expert=}"
        base=$folder/distinct/base.safetensors timed ties-distinct ties.global "${distinct[@]/#/--expert=}"
    fi
    note nothing "$(elapsed build/bin/biophony merge --help)"
    ! command -v openssl >/dev/null || note hash "$(elapsed openssl dgst -sha256 "$folder/base.safetensors")"
done
floor=$(median floor)
row() { # LABEL NAME [FLOOR]
    awk -v label="$1" -v s="$(median "$2")" -v l="$(least "$2")" -v f="${3:-$floor}" 'BEGIN { printf "%-34s %8.3f (%.3f) %8.2f\n", label, s, l, s / f }'
}
printf '%-34s %8s %16s\n' '' seconds 'x the floor'
row 'floor' floor
row 'floor in one pass' onepass
for method in "${methods[@]}"; do row "$method" "$method"; done
row 'norm-adjusted, first time' norms
row 'norm-adjusted, lengths remembered' norms-again
row 'average with --geometry' geometry
row 'average of 8 vectors, base hashed' vectors
row 'average of 8 vectors, hash known' vectors-again
row 'average, --hash, none known' hashed
row 'average, --hash, all remembered' hashed-again
own=$(median floor-64)
row 'floor of 64 (8 files, 8 times)' floor-64 "$own"
row 'average of these' average-64 "$own"
if ((${#distinct[@]})); then
    own=$(median floor-distinct)
    row "floor of 64 files of $(($(stat -c %s "${distinct[0]}") / 1000000)) MB" floor-distinct "$own"
    row 'average of these files' average-distinct "$own"
    row 'ties.global of these files' ties-distinct "$own"
else
    echo '64 files left out: the disk has no room'
fi
row 'starting the program' nothing
[[ ! -f $folder/seconds.hash ]] || row 'SHA-256 of a base, one thread' hash

# Private memory, by the kernel's count, while a merge runs.
peak() { # METHOD EXPERT...: MB
    local pid most=0 now
    (as=exec && merge "$1" "$folder/out" "${@:2}") >/dev/null 2>&1 &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        now=$(awk '/^Private_/ { sum += $2 } END { print sum + 0 }' "/proc/$pid/smaps_rollup" 2>/dev/null || echo 0)
        ((now > most)) && most=$now
        sleep 0.005
    done
    wait "$pid"
    rm -f "$folder/out"
    echo $((most / 1000))
}
for method in average ties.global pcb ties.nihal2026; do
    printf '%-34s %8s MB, %s MB with 64 experts\n' "private memory, $method" "$(peak "$method" "${few[@]}")" \
        "$(peak "$method" "${many[@]}")"
done

[[ -n $peers ]] || { echo "mergekit and PyTorch left out: BIOPHONY_PEERS names no Python that has them"; exit 0; }
peer() { # CONTENDER METHOD: seconds, the better of settings that make a difference
    rm -rf "$folder/peer"
    "$peers" -W ignore tests/bench/merge_torch.py "$1" "$2" "$folder/peer" "$folder/base.safetensors" "${experts[@]}" 2>"$folder/errors" ||
        { tail -n 3 "$folder/errors" >&2; echo nan nan; }
}
compare() { # METHOD: the largest relative L2 difference of a tensor
    merge "$1" "$folder/out" "${few[@]}" >/dev/null 2>&1
    local theirs=$folder/peer
    [[ ! -d $theirs ]] || theirs=$(echo "$folder"/peer/*.safetensors)
    "$peers" tests/bench/merge_torch.py compare "$folder/out" "$theirs"
    rm -rf "$folder/out" "$folder/peer"
}
printf '\n%-34s %8s %9s %12s %s\n' '' seconds 'x ours' 'difference' 'imports'
against() { # LABEL CONTENDER METHOD OURS COMPARABLE
    local seconds imports best=nan round difference=-
    for ((round = 0; round < rounds; ++round)); do
        read -r seconds imports < <(peer "$2" "$3")
        best=$(awk -v a="$best" -v b="$seconds" 'BEGIN { print (a == "nan" || b < a) ? b : a }')
        awk -v s="$seconds" 'BEGIN { exit !(s > 30) }' && break # once is enough
    done
    [[ $5 == no ]] || difference=$(compare "$4")
    rm -rf "$folder/peer"
    awk -v label="$1" -v s="$best" -v o="$(least "$4")" -v d="$difference" -v i="${imports:-}" \
        'BEGIN { printf "%-34s %8.3f %9.2f %12s %s\n", label, s, s / o, d, i }'
}
for method in average task-arithmetic; do
    against "mergekit $method" mergekit "$method" "$method" yes
    MERGEKIT_ASYNC=1 against "mergekit $method, async writes" mergekit "$method" "$method" yes
    against "PyTorch $method" torch "$method" "$method" yes
done
# ties.per-tensor is mergekit's formula. Where more values than it keeps have the magnitude at which it trims, which of
# them stay is up to mergekit's sort, so these few differ. PyTorch's whole vector leaves 0 where signs cancel out;
# ties.global asks the majority of all elements there, which takes another pass.
against 'mergekit ties' mergekit ties ties.per-tensor yes
MERGEKIT_ASYNC=1 against 'mergekit ties, async writes' mergekit ties ties.per-tensor yes
against 'PyTorch ties per tensor' torch ties.tensor ties.per-tensor yes
against 'PyTorch ties, whole vector' torch ties.global ties.global yes
