"""`--budget smoke` in real processes: each run must finish, far from where float32 overflows.

Those that train by a README's command are in tests/docs/test_readmes.py, with the same flags.
"""

import math

import pytest

from benchmarks.overflow import losses, script_module
from common.plan.datasets import ensure_dataset
from common.plan.plan import PlannedRun, load_plan, select
from common.plan.tasks import State, Task, make_tasks
from common.results.reported import EXPERIMENTS, load_tables
from tests.pages import BUDGET, LARGEST_LOSS, PAPERS, commands
from tests.processes import Process

pytestmark = pytest.mark.slow

IN_READMES = [command.run for paper in PAPERS for command in commands(f"{paper}/README.md") if command.run]
PLANNED = select(load_plan(), load_tables(), left_out=list(BUDGET.leaves_out))
# one method for each pair of networks that are slow to train: the README's commands train ShuffleV2 by all of them
SHOWN_BY_ANOTHER = (
    *("RegNetX_200MF AVER", "RegNetX_200MF MTKD-RL", "MobileNetV2 AVER", "MobileNetV2 MTKD-RL --dynamic"),
    *("resnet56 MTKD-RL", "resnet56 MTKD-RL --dynamic"),
)


def is_run_here(run: PlannedRun) -> bool:
    """Evaluations find in a plan's directories what they look for; MLKD's one would need teachers that take long."""
    if run.paper == "mtkd_rl" and run.experiment in SHOWN_BY_ANOTHER:
        return False
    return run not in IN_READMES or (not run.trains and run.paper != "mlkd")


RUNS = [run for run in PLANNED if is_run_here(run)]


class Plan:
    """Runs tasks that have not been run, each after those that it needs."""

    def __init__(self, root) -> None:
        self.root = root
        self.ended: dict[Task, str] = {}  # task -> its standard error, or nothing where it went well
        where = {"output": root / "results", "data": root / "data", "experiments": EXPERIMENTS}
        tasks = make_tasks(PLANNED, {run.key: (0,) for run in PLANNED}, BUDGET, **where)
        self.tasks = {task.run.name: task for task in tasks}

    def run(self, task: Task) -> str:
        if task not in self.ended:
            self.ended[task] = self._execute(task)
        return self.ended[task]

    def _execute(self, task: Task) -> str:
        for need in task.depends_on:
            if self.run(need):
                return f"needs {need.name}"
        assert ensure_dataset(task.run.dataset, task.data_dir, BUDGET) is None
        task.prepare()
        ended = Process(script_module(task.run.script), [*task.command[2:], "--device", "cpu"], task.workspace).wait()
        if ended.code != 0:
            return f"exit code {ended.code}: {ended.stderr}"
        task.finish()
        return ""


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Plan:
    return Plan(tmp_path_factory.mktemp("smoke"))


@pytest.mark.parametrize("name", [run.name for run in RUNS])
def test_the_run_is_done_and_its_losses_are_moderate(plan, name):
    task = plan.tasks[name]
    assert not plan.run(task)
    if task.run.trains:
        assert (found := task.found()).record.done
        assert losses(found.directory), "a run without a loss"
        assert all(math.isfinite(loss) and abs(loss) < LARGEST_LOSS for loss in losses(found.directory))
    else:
        assert task.state() is State.DONE


def test_little_is_left(plan):
    """Datasets, records and logs, of about half of the runs; networks are deleted once no run needs them."""
    for task in plan.ended:
        task.delete_networks()
    left = {part: sum(f.stat().st_size for f in (plan.root / part).rglob("*")) for part in ("data", "results")}
    assert left["data"] < 150e6
    assert left["results"] < 0.3e6 * len(plan.ended)
