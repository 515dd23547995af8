#!/usr/bin/env bash
# Runs all checks: ruff, then the tests. Arguments go to pytest: ./run_tests.sh -m "not slow"
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/scripts/environment.sh"
cd "$repository"
if ! has_modules "$PYTHON" pytest ruff; then
    echo "installing pytest and ruff"
    install "$PYTHON" -e '.[test]'
fi
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m pytest "$@"
