"""What all papers share: models, data, training, results. Never imports a paper."""

import sys

from common.interrupts import stop_in_imports

if sys.argv[:1] == ["-m"]:  # as Python has it while it looks for the module that is to be run
    stop_in_imports()
