#!/usr/bin/env bash
# Regenerates the published tables beside the published figures: ./run_all.sh --quick (minutes, on the synthetic set).
# --help lists all options; --dry-run prints the commands. Other runs first make .venv on a machine that lacks packages.
set -euo pipefail
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/scripts/environment.sh" # through links, too
cd "$repository"
export KD_COMMAND="$0" # what its messages call it
for argument in "$@"; do
    case "$argument" in
    -h | --help | --version | --dry-run)
        find_python
        exec "$PYTHON" -m common.plan "$@"
        ;;
    esac
done
if ! find_environment packages; then
    find_python
    "$PYTHON" -m common.plan "$@" --dry-run >/dev/null # what is wrong with the flags is said before anything is installed
    make_environment
fi
exec "$PYTHON" -m common.plan "$@"
