"""The script of this paper; `python3 mlkd.py --help` says more, and `train.py` has what it does."""

import sys
from pathlib import Path

# This file has its package's name. Python looks for modules beside a script first, so that `import mlkd` in any script
# of this directory finds this file: with a path of its own it is the package as well.
__path__ = [str(Path(__file__).resolve().parent)]

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any directory, installed or not
    from common.interrupts import stop_in_imports

    stop_in_imports()

    from mlkd.train import main

    main()
