#!/usr/bin/env bash
# All checks: lint (Python, imports, shell, YAML), types, tests. Sets up its own environment; PYTHON=python3.13 chooses
# another interpreter. WITH_TORCH=1 also installs PyTorch and sentence-transformers, for the tests that compare with
# them. TEST_WORKERS=4 runs so many tests at a time (2).
#
#   bash launch/test.sh [pytest arguments]          everything
#   bash launch/test.sh fast [pytest arguments]     without the tests that are marked slow: two minutes, for every change
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
chosen=()
if [ "${1-}" = fast ]; then
  chosen=(-m "not slow")
  shift
fi
# One environment for both, so that going from one to the other installs nothing.
make_environment "index,pretrained,plan,export,serve,milvus,docs,dev${WITH_TORCH:+,onnx,bench}"

logs=$(mktemp -d)
trap 'kill "${pids[@]}" 2> /dev/null || true; rm -rf "$logs"' EXIT
names=() pids=()
# Starts a check in the background, with a log of its own.
start() {
  names+=("$*")
  "$@" > "$logs/${#names[@]}" 2>&1 &
  pids+=($!)
}
# Waits for a check by its number, and shows its log if it failed.
passed() {
  if wait "${pids[$1]}"; then
    echo "passed: ${names[$1]}"
  else
    cat "$logs/$(($1 + 1))"
    echo "FAILED: ${names[$1]}"
    return 1
  fi
}
failed=0
start mypy # 0: the longest, so that the tests begin meanwhile
start ruff check .
start ruff format --check .
start lint-imports --no-logo
start shellcheck launch/*.sh .ci/run
start yamllint --strict .
for i in 1 2 3 4 5; do passed "$i" || failed=1; done
[ "$failed" = 0 ] || exit 1
python -m pytest -q -n "${TEST_WORKERS:-2}" --dist loadfile "${chosen[@]}" "$@" || failed=$?
passed 0 || failed=1
exit "$failed"
