#!/usr/bin/env bash
# Side by side with what a user would pick instead: runs the benches of tests/bench, all or those named, one after the
# other. The last line of each is one JSON object. Sets up an environment of its own (.venv-bench), so that the peers
# never come near the package's.
#
#   bash launch/bench.sh [NAME …]          e.g. train loss
set -euo pipefail
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv-bench}
source launch/environment.sh
make_environment index,pretrained,onnx,serve,bench
if [ $# -eq 0 ]; then
  for file in tests/bench/[!_]*.py; do # a name with _ is a part of a bench
    name=$(basename "$file" .py)
    [ "$name" = common ] || set -- "$@" "$name"
  done
fi
for name in "$@"; do
  echo "== $name"
  python "tests/bench/$name.py"
done
