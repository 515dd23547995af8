#!/usr/bin/env bash
# Regenerates the published tables beside the published figures: ./run_all.sh --quick (minutes, on the generated set).
# --help lists all options; --dry-run prints the commands. On a fresh machine this first makes .venv.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/scripts/environment.sh"
cd "$repository"
exec "$PYTHON" -m common.plan "$@"
