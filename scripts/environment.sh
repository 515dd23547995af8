# Sourced by run_all.sh and run_tests.sh: sets PYTHON to an interpreter that has what the repository needs.
# Takes the current one or that of .venv where they have it; else makes .venv and installs requirements.txt there.

repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
packages=(torch torchvision timm tensorboard numpy tqdm yaml)

fail() {
    echo "error: $*" >&2
    exit 1
}

# Whether interpreter $1 finds the modules $2...; asked from elsewhere, so that the working directory helps nobody.
has_modules() {
    local python="$1"
    shift
    (cd / && "$python" -c 'import sys
from importlib.util import find_spec
sys.exit(any(find_spec(name) is None for name in sys.argv[1:]))' "$@") 2>/dev/null
}

# Whether interpreter $1 has all packages, and this very checkout installed.
is_ready() {
    command -v "$1" >/dev/null && has_modules "$1" "${packages[@]}" common &&
        (cd / && "$1" -c 'import pathlib, sys, common
sys.exit(pathlib.Path(common.__file__).resolve().parents[1] != pathlib.Path(sys.argv[1]).resolve())' "$repository")
}

is_recent() {
    command -v "$1" >/dev/null && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}

# pip install $2... with interpreter $1: one line of progress, everything else in a log.
install() {
    local python="$1" log
    shift
    log="$(mktemp)"
    local clear=$'\r\033[K' end=''
    [ -t 1 ] || clear='' end=$'\n'
    if ! "$python" -m pip install --disable-pip-version-check "$@" 2>&1 | tee "$log" |
        awk -v clear="$clear" -v end="$end" '
            /^ *(Collecting|Downloading|Installing collected)/ {
                sub(/^ +/, "")
                if (end == "" || /^Installing/ || /\([0-9.]+ [MG]B\)/) printf "%s  %.100s%s", clear, $0, end
                fflush()
            }
            END { printf "%s", clear }'; then
        fail "installing failed: $( (grep -E '^ *ERROR: ' "$log" || tail -n 1 "$log") | head -n 1) (all of it: $log)"
    fi
    rm -f "$log"
}

find_environment() {
    local candidate
    for candidate in python python3 "$repository/.venv/bin/python"; do
        if is_ready "$candidate"; then
            PYTHON="$candidate"
            return
        fi
    done
    for candidate in python3 python3.13 python3.12 python3.11 python3.10 python; do
        if is_recent "$candidate"; then
            echo "installing the packages into $repository/.venv (once, a few minutes)"
            "$candidate" -m venv "$repository/.venv" >/dev/null ||
                fail "$candidate cannot make a virtual environment; its venv module is missing (Debian: apt install python3-venv)"
            PYTHON="$repository/.venv/bin/python"
            (cd "$repository" && install "$PYTHON" -r requirements.txt)
            return
        fi
    done
    fail "Python 3.10 or newer is needed, and none of python3, python3.10 to python3.13 is"
}

find_environment
