#!/bin/sh
# From BEIR folders to a finished model. What is there already is left as it is, so a second call goes on.
#   sh recipes/ensemble/run.sh DATA ARCTIC E5        folders: collections, snowflake-arctic-embed-xs, e5-small-v2
set -eu
data=$1 arctic=$2 e5=$3
for folder in "$data" "$arctic" "$e5"; do
    [ -d "$folder" ] || { echo "no folder $folder; README.md beside this file says where models and data come from" >&2; exit 1; }
done
web="nq-qed-train clapnq-train"
[ -d build/start ] || python -m recipes.ensemble.start build/start --base blockrank_rerank/default_model \
    --temperature 0.05 --length-weight -0.3
python -m recipes.ensemble.pools "$data" build/pools
python -m recipes.ensemble.vectors build/pools build/vectors --encoder "arctic=$arctic"
python -m recipes.ensemble.vectors build/pools build/vectors --encoder "e5=$e5" --only $web
python -m recipes.ensemble.lists build/pools build/vectors build/lists --student build/start
[ -f build/lists/passages.jsonl ] || python -m recipes.ensemble.passages build/pools build/vectors \
    build/lists/passages.jsonl --student build/start
[ -f build/lists/opposites.jsonl ] || python -m recipes.ensemble.opposites lists build/lists/opposites.jsonl
python -m recipes.ensemble.variants build/lists build/varied
[ -d build/trained ] || blockrank-finetune train recipes/ensemble/train.yaml
[ -d build/calibrated ] || blockrank-finetune train recipes/ensemble/calibrate.yaml
