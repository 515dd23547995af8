#!/usr/bin/env bash
# Runs all checks: ruff, then the tests. Arguments go to pytest: ./run_tests.sh -m "not slow"
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/scripts/environment.sh"
cd "$repository"
find_environment packages || make_environment
if ! "$PYTHON" -c 'import pytest, ruff, torchmetrics, xdist' 2>/dev/null; then
    echo "installing pytest, pytest-xdist, ruff and torchmetrics into the environment of $(command -v "$PYTHON")"
    "$PYTHON" "$manager" add -e '.[test]'
fi
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
# a test has one thread; those of a file stay together, for what they share takes long to make
"$PYTHON" -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile "$@"
