"""`python3 setup.py develop`, the published install line: installs this repository in place, unless that is done."""

import subprocess
import sys
from pathlib import Path

MANAGER = Path(__file__).resolve().parent.parent / "scripts" / "environment.py"


def main() -> None:
    if sys.argv[1:] not in (["develop"], ["install"]):
        sys.exit("error: this setup.py knows `develop` alone; pip takes the repository's root: pip install -e ..")
    if subprocess.call([sys.executable, str(MANAGER), "check"]) == 0:
        print(f"nothing is left to do: {MANAGER.parent.parent} and all that it needs are installed")
        return
    sys.exit(subprocess.call([sys.executable, str(MANAGER), "add", "-e", str(MANAGER.parent.parent)]))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # of which the manager has spoken
        sys.exit(130)
