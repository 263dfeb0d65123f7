#!/usr/bin/env bash
# All checks: lint (Python, shell, YAML), types, tests. Sets up its own environment; PYTHON=python3.13 chooses another
# interpreter. WITH_TORCH=1 also installs PyTorch and sentence-transformers, for the tests that compare with them.
# TEST_WORKERS=4 runs so many test files at a time (2).
#
#   bash launch/test.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
make_environment "index,pretrained,plan,export,dev${WITH_TORCH:+,onnx,bench}"
ruff check .
ruff format --check .
mypy
shellcheck launch/*.sh .ci/run
yamllint --strict -d '{extends: default, rules: {line-length: {max: 120}}}' launch
python -m pytest -q -n "${TEST_WORKERS:-2}" --dist loadfile "$@"
