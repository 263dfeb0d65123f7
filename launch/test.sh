#!/usr/bin/env bash
# All checks: lint, types, tests. Sets up its own environment; PYTHON=python3.13 chooses another interpreter.
#
#   bash launch/test.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
make_environment index,pretrained,dev
ruff check .
ruff format --check .
mypy
python -m pytest -q "$@"
