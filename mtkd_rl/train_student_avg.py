"""Train a student by AVER, the plain mean over its teachers: `python train_student_avg.py --arch ShuffleV2 ...`."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any directory, installed or not
    from common.interrupts import stop_in_imports

    stop_in_imports()

from common.command_line import cli_main
from mtkd_rl.multi_teacher import Averaging
from mtkd_rl.student import Script, run_student
from mtkd_rl.student_flags import student_parser

SCRIPT = Script("AVER", Averaging, own={})


@cli_main
def main() -> None:
    run_student(student_parser(__doc__).parse_args(), SCRIPT)


if __name__ == "__main__":
    main()
