"""Every README command in miniature, in real processes: each must finish, far from where float32 overflows."""

import math

import pytest

from benchmarks.overflow import losses, script_module
from common.plan.budgets import load_budget
from common.plan.datasets import ensure_dataset
from common.plan.plan import load_plan, select
from common.plan.tasks import State, Task, make_tasks
from common.results.reported import EXPERIMENTS, load_tables
from tests.mlkd.checks import CONFIG
from tests.processes import Process

pytestmark = pytest.mark.slow

# these commands are in other tests: tests/mlkd/test_readme.py, and tests/mlkd/test_scripts.py for two processes
ELSEWHERE = ["mlkd * ensemble*", "mlkd * calibrate *"]
ELSEWHERE += [f"mlkd * teacher {name}" for name in CONFIG["models"] if not name.startswith("resnetv2_")]

BUDGET = load_budget("smoke")
RUNS = select(load_plan(), load_tables(), left_out=[*BUDGET.leaves_out, *ELSEWHERE])

# Networks that have hardly trained have hardly any batch-norm statistics, and each layer may enlarge what the one
# before gave; rounding, which differs between processors, then decides whether a loss is finite. Losses here are below
# 2,000.
LARGEST_LOSS = 1e5


class Plan:
    """Runs tasks that have not been run, each after those that it needs."""

    def __init__(self, root) -> None:
        self.root = root
        self.ended: dict[Task, str] = {}  # task -> its standard error, or nothing where it went well
        where = {"output": root / "results", "data": root / "data", "experiments": EXPERIMENTS}
        tasks = make_tasks(RUNS, {run.key: (0,) for run in RUNS}, BUDGET, **where)
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
        ended = Process(script_module(task), [*task.command[2:], "--device", "cpu"], task.workspace).wait()
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
        assert task.found().record.done
        assert losses(task), "a run without a loss"
        assert all(math.isfinite(loss) and abs(loss) < LARGEST_LOSS for loss in losses(task))
    else:
        assert task.state() is State.DONE
