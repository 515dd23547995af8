"""How far the runs of the budget `smoke` are from where float32 overflows, whatever instructions the processor has.

`python -m benchmarks.overflow` executes every run for each combination of instruction set, number of threads and seed,
one run after the other, and prints for each paper the largest loss, the largest entry of any module's output, and
whose they are. A run that fails is named.
"""

from __future__ import annotations

import importlib
import json
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from common.command_line import REPOSITORY, ArgumentParser, cli_main, positive_int, seed_number
from common.plan.budgets import load_budget
from common.plan.datasets import ensure_dataset
from common.plan.plan import load_plan, select
from common.plan.tasks import State, Task, make_tasks
from common.results.reported import EXPERIMENTS, load_tables
from common.run_record import read_metrics

# What ATEN_CPU_CAPABILITY chooses for PyTorch's own kernels, and the match for oneDNN's convolutions.
INSTRUCTION_SETS = {"default": "SSE41", "avx2": "AVX2", "avx512": "AVX512_CORE"}
MODULES = ("edkd.tools.train", "mlkd.train", "mtkd_rl.train_student_rl", "tfkd.main", "torch.utils.tensorboard")


def execute(module: str, arguments: list[str], directory: Path, result: Path) -> None:
    """Run a script, silently; write the largest entry of any module's output to `result`."""
    import torch
    from torch.nn.modules.module import register_module_forward_hook

    largest = torch.zeros(())

    def watch(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        nonlocal largest
        if isinstance(output, torch.Tensor) and output.is_floating_point() and output.numel() and not output.is_meta:
            largest = torch.maximum(largest, torch.linalg.vector_norm(output.detach().float(), math.inf))

    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(os.open(result.with_suffix(".stderr"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.chdir(directory)
    sys.argv = [f"{module.rpartition('.')[2]}.py", *arguments]
    sys.orig_argv = [sys.executable, "-m", module, *arguments]  # what `launch_processes` starts again
    script = importlib.import_module(module)
    register_module_forward_hook(watch)
    try:
        script.main()
    finally:
        result.write_text(json.dumps(largest.item()))


def script_module(script: Path) -> str:
    """The module of a script of this repository."""
    module = ".".join(script.relative_to(REPOSITORY).with_suffix("").parts)
    return {"mlkd.mlkd": "mlkd.train"}.get(module, module)  # the script has its package's name, and is both


def losses(directory: Path) -> list[float]:
    """All losses of a run, in training and evaluation."""
    return [value for line in read_metrics(directory) for key, value in line.items() if "loss" in key]


def run(task: Task, result: Path) -> bool:
    """Run a task in a child of this process, which writes to `result`; says whether it came to its end."""
    ensure_dataset(task.run.dataset, task.data_dir, task.budget)
    task.prepare()
    result.unlink(missing_ok=True)
    arguments = (script_module(task.run.script), task.command[2:], task.workspace, result)
    process = multiprocessing.get_context("fork").Process(target=execute, args=arguments)
    process.start()
    process.join()
    if process.exitcode == 0:
        task.finish()
    return process.exitcode == 0 and task.state() is State.DONE


def measure(seed: int, root: Path) -> dict[str, dict[str, Any]]:
    """Paper -> `loss` and `entry`, each the largest of all its runs with the run's name, and `failed`, in words.

    Args:
        seed: of the runs.
        root: an empty directory for them.
    """
    for module in MODULES:  # so that no run takes seconds for it
        importlib.import_module(module)
    budget = load_budget("smoke")
    runs = select(load_plan(), load_tables(), left_out=[*budget.leaves_out])
    where = {"output": root / "results", "data": root / "data", "experiments": EXPERIMENTS}
    tasks = make_tasks(runs, {each.key: (seed,) for each in runs}, budget, **where)
    papers = {each.paper: {"loss": (0.0, ""), "entry": (0.0, ""), "failed": []} for each in runs}
    result = root / "result.json"
    for number, task in enumerate(tasks, start=1):
        figures = papers[task.run.paper]
        if not run(task, result):
            figures["failed"].append(f"{task.name}: {result.with_suffix('.stderr').read_text().strip()[-300:]}")
        else:
            if (found := task.found()) is not None:
                figures["loss"] = max(figures["loss"], (max(map(abs, losses(found.directory))), task.name))
            if result.exists():  # else its networks were in processes of its own
                figures["entry"] = max(figures["entry"], (json.loads(result.read_text()), task.name))
        needed = {need for later in tasks[number:] for need in later.depends_on}
        for done in {task, *task.depends_on} - needed:
            done.delete_networks()
    return papers


def combination(name: str, threads: int, seed: int) -> dict[str, dict[str, Any]]:
    """`measure` in a process of its own, with that instruction set and so many threads."""
    instructions = {"ATEN_CPU_CAPABILITY": name, "ONEDNN_MAX_CPU_ISA": INSTRUCTION_SETS[name]}
    with tempfile.TemporaryDirectory() as directory:
        code = (
            "import json, pathlib, sys, benchmarks.overflow as b;"
            "print(json.dumps(b.measure(int(sys.argv[1]), pathlib.Path(sys.argv[2]))))"
        )
        places = {"PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""}
        environment = {**os.environ, **instructions, **places, "OMP_NUM_THREADS": str(threads)}
        call = [sys.executable, "-c", code, str(seed), directory]
        ended = subprocess.run(
            call, cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True
        )
    return json.loads(ended.stdout.splitlines()[-1])


@cli_main
def main() -> None:
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--instructions", nargs="+", choices=INSTRUCTION_SETS, default=list(INSTRUCTION_SETS), help="which sets")
    add("--threads", nargs="+", type=positive_int, default=[1, 2], metavar="N", help="how many threads")
    add("--seeds", nargs="+", type=seed_number, default=[0, 1, 2], metavar="S", help="which seeds")
    add("--jobs", type=positive_int, default=1, metavar="N", help="combinations at a time")
    args = parser.parse_args()
    combinations = [(name, n, seed) for seed in args.seeds for n in args.threads for name in args.instructions]
    with ThreadPoolExecutor(args.jobs) as pool:
        waiting = {pool.submit(combination, *each): each for each in combinations}
        for done in as_completed(waiting):
            name, threads, seed = waiting[done]
            for paper, figures in sorted(done.result().items()):
                (loss, by), (entry, of) = figures["loss"], figures["entry"]
                where = f"{name:8} {threads} threads, seed {seed}: {paper:8}"
                print(f"{where} loss {loss:8.1f} ({by}), entry {entry:12.1f} ({of})", flush=True)
                for failed in figures["failed"]:
                    print(f"{where} FAILED {failed}", flush=True)


if __name__ == "__main__":
    main()
