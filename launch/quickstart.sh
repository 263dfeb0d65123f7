#!/usr/bin/env bash
# The whole method on the docstrings of this machine's own Python packages: data, LLM towers, distilled student,
# ScaNN index, report, one live search. Ten minutes on two cores, install included.
#
#   bash launch/quickstart.sh [WORKDIR] [--section.field=value …]
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
workdir=runs/quickstart
if [ $# -gt 0 ] && [[ $1 != --* ]]; then
  workdir=$1
  shift
fi
make_environment index,pretrained,serve
scalingnote run configs/quickstart.py --workdir="$workdir" "$@"
echo
echo "\$ scalingnote search $workdir \"compute the median of an array\" -k 5"
scalingnote search "$workdir" "compute the median of an array" -k 5
echo
echo "Search over HTTP (docs/serve.md):  .venv/bin/scalingnote serve $workdir"
