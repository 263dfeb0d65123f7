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
make_environment "index,pretrained,plan,export,docs,dev${WITH_TORCH:+,onnx,bench}"

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
checks=() pids=()
# Side by side, each with a log of its own that is shown if the check fails.
check() {
  checks+=("$*")
  "$@" > "$logs/${#checks[@]}" 2>&1 &
  pids+=($!)
}
check mypy # first, as it takes longest
check ruff check .
check ruff format --check .
check lint-imports --no-logo
check shellcheck launch/*.sh .ci/run
check yamllint --strict .
failed=0
for i in "${!checks[@]}"; do
  if wait "${pids[$i]}"; then
    echo "passed: ${checks[$i]}"
  else
    failed=1
    cat "$logs/$((i + 1))"
    echo "FAILED: ${checks[$i]}"
  fi
done
[ "$failed" = 0 ] || exit 1

python -m pytest -q -n "${TEST_WORKERS:-2}" --dist loadfile "${chosen[@]}" "$@"
