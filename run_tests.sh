#!/usr/bin/env bash
# Runs all checks: ruff, basedpyright, then the tests. Arguments go to pytest: ./run_tests.sh -m "not slow"
set -euo pipefail
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/scripts/environment.sh" # through links, too
cd "$repository"
find_environment packages || make_environment
if ! "$PYTHON" -c 'import basedpyright, pytest, ruff, torchmetrics, xdist' 2>/dev/null; then
    echo "installing pytest, pytest-xdist, ruff, basedpyright and torchmetrics into the environment of $(command -v "$PYTHON")"
    "$PYTHON" "$manager" add -e '.[test]'
fi
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
# it would look for the packages in the first python of the PATH
"$PYTHON" -m basedpyright --pythonpath "$(command -v "$PYTHON")"
# A test has one thread; those of a file stay together, for what they share takes long to make. A crashed worker ends
# the run: pytest-xdist 3.8 waits for ever for what it would give to the next one. Files come in their order: by the number
# of tests, files of a few long ones would come last, one worker at them and the others at nothing.
"$PYTHON" -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 "$@"
