"""`python3 setup.py develop`, the published install line: pip has replaced it, and installs the whole repository."""

import sys

sys.exit("error: setup.py develop is no more: run `pip3 install -e ..` here, which installs this repository in place")
