#!/usr/bin/env bash
# Run on a machine with a GPU before anything else, in two commands of at most 8 minutes each:
#
#     bash benchmarks/gpu_day_one.sh first FOLDER
#     bash benchmarks/gpu_day_one.sh second FOLDER
#
# first:  tests of the kernels, the users' path from text to ranking, the whole forward pass, a profile.
# second: FlexAttention in a process of its own, each kernel alone, what lies between products, a sweep of tile shapes, a
#         training step, more tests.
#
# Nothing is installed: torch, triton, transformers, numpy, safetensors, filelock, typer, pytest and pytest-xdist are
# enough. FOLDER receives the rows of each benchmark as JSON, all output, and how each part ended. Each part has its
# share of the time and keeps the rows that it has when that is over. A contestant that is wrong or fails is a row. The
# exit status is 1 where a part failed as a whole. --tiny as a last argument shows on a CPU that everything runs.
set -uo pipefail

command=${1:?first or second} folder=${2:?a folder for the results}
mkdir -p "$folder"
folder=$(realpath "$folder")
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD:$PWD/kernels:$PWD/integrations:$PWD/benchmarks PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
export TOKENIZERS_PARALLELISM=false
workers=8 patience=1 sizes=(--documents 10 100 500) tiny=()
kernels=(tests/gpu tests/kernels) package=(tests/engine tests/states tests/model)
if [[ ${3:-} == --tiny ]]; then
    export TRITON_INTERPRET=1
    kernels=(tests/gpu tests/kernels/test_last_rows.py tests/kernels/test_rows.py) package=(tests/engine/test_fingerprint.py)
    workers=2 patience=10 sizes=(--documents 3) tiny=(--tiny --repeats 1)
fi
failed=0

# part NAME SECONDS COMMAND: run it for so long at most, and write down how it ended.
part() {
    local name=$1 limit=$((patience * $2)) start=$SECONDS ended
    shift 2
    echo "== $name: $*"
    # Of tests the failures alone, as they come: what is stopped prints no summary.
    timeout --signal INT --kill-after 10 "$limit" "$@" 2>&1 |
        grep --line-buffered --extended-regexp --invert-match ' (PASSED|SKIPPED) |^tests/[^ ]+::.* $'
    case ${PIPESTATUS[0]} in
        0) ended=done ;;
        124 | 137) ended="stopped after its $limit s" failed=1 ;;
        *) ended="failed" failed=1 ;;
    esac
    printf '%-9s %4d s  %s\n' "$name" $((SECONDS - start)) "$ended" | tee -a "$folder/$command-parts.txt"
}

benchmark() {
    local name=$1 limit=$2 script=$3
    shift 3
    part "$name" "$limit" python3 "benchmarks/$script.py" --output "$folder/$name.json" "$@" ${tiny[@]+"${tiny[@]}"}
}

check() {
    local name=$1 limit=$2
    shift 2
    part "$name" "$limit" python3 -m pytest -v -n $workers --maxprocesses $workers -rfE --tb=short -p no:cacheprovider "$@"
}

first() {
    check tests 130 "${kernels[@]}"
    benchmark engine 120 gpu_engine "${sizes[@]}"
    benchmark forward 150 gpu_forward "${sizes[@]}" --lengths skewed uniform --contestants triton unfused sdpa padded "full causal"
    benchmark profile 40 gpu_profile
}

# Limits that sum to 400 s: starting and stopping parts takes some of the 8 minutes too.
second() {
    benchmark flex 100 gpu_forward "${sizes[@]}" --lengths skewed uniform --contestants triton sdpa flex
    benchmark kernels 95 gpu_kernels "${sizes[@]}" --lengths skewed uniform --contestants triton sdpa
    benchmark row_wise 35 gpu_row_wise
    benchmark tiles 75 gpu_tiles
    benchmark training 35 gpu_training ${tiny[@]+--documents 3}
    check package 60 "${package[@]}"
}

: > "$folder/$command-parts.txt"
case $command in
    first | second) "$command" > >(tee "$folder/$command-log.txt") ;;
    *) echo "the first argument must be first or second, got $command" >&2; exit 2 ;;
esac
cat "$folder/$command-parts.txt"
exit $failed
