# Sourced by run_all.sh and run_tests.sh: finds, or makes, a Python that has what the repository needs, as PYTHON.
# KD_ENVIRONMENT names another directory than .venv for the virtual environment that is made.

repository="$(CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." >/dev/null && pwd)"
environment="${KD_ENVIRONMENT:-$repository/.venv}"
manager="$repository/scripts/environment.py"

# A Python that is recent enough, whatever packages it has.
find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 python3.10 python "$environment/bin/python"; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            PYTHON="$candidate"
            return
        fi
    done
    echo "error: Python 3.10 or newer is needed, and none of python3, python3.10 to python3.13 is: install one" >&2
    exit 1
}

# A Python that has the packages and this checkout; with "$1" = packages, one that lacks the checkout serves too.
# PYTHONPATH then takes its place, so that nobody's environment is changed.
find_environment() {
    local candidate code partly=""
    for candidate in python python3 "$environment/bin/python"; do
        code=0
        "$candidate" "$manager" check 2>/dev/null || code=$?
        if [ "$code" = 0 ]; then
            PYTHON="$candidate"
            return
        fi
        [ "$code" != 3 ] || partly="${partly:-$candidate}"
    done
    [ "${1:-}" = packages ] && [ -n "$partly" ] || return 1
    PYTHON="$partly"
    export PYTHONPATH="$repository${PYTHONPATH:+:$PYTHONPATH}"
}

make_environment() {
    find_python
    "$PYTHON" "$manager" create "$environment"
    find_environment packages || {
        echo "error: $environment is not complete: remove it and give the same command again" >&2
        exit 1
    }
}
