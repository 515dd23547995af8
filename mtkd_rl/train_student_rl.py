"""Train a student by MTKD-RL: `python train_student_rl.py --arch ShuffleV2 --teacher-name-list resnet32x4 wrn_28_4`.

An agent weighs the teachers for each sample. Beside the published files the run's directory gets `teacher_weights.json`
and `teacher_weights.svg`, the mean weights of each class in the last epoch, and `teacher_agreement.svg`, these beside
the student's agreement with each teacher on the test images of the class.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any directory, installed or not
    from common.interrupts import stop_in_imports

    stop_in_imports()

from common.command_line import cli_main, positive_int
from mtkd_rl.methods import AGENT_LOSSES, MultiTeacherRL
from mtkd_rl.student import Script, run_student
from mtkd_rl.student_flags import student_parser
from mtkd_rl.weights_table import agreement_beside_weights, write_weights_table

OWN = {"--dynamic": False, "--agent-loss": "reward-weighted", "--agent-step": 1000, "--equal-weights": False}
SCRIPT = Script("MTKD-RL", MultiTeacherRL, OWN, write_weights_table, agreement_beside_weights)


def parse_arguments() -> argparse.Namespace:
    parser = student_parser(__doc__)
    add = parser.add_argument
    add("--dynamic", action="store_true", help="the agent also learns how to mix its three sources of weights")
    add("--agent-step", type=positive_int, default=1000, help="batches of an epoch after which the agent is renewed")
    add("--agent-loss", choices=list(AGENT_LOSSES), default="reward-weighted", help="see docs/divergences.md")
    add("--equal-weights", action="store_true", help="a control: equal weights after epoch 0 whatever the agent says")
    return parser.parse_args()


@cli_main
def main() -> None:
    run_student(parse_arguments(), SCRIPT)


if __name__ == "__main__":
    main()
