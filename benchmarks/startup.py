"""Seconds from a command to the end of its first training step, with an empty and with a filled cache of images.

`python -m benchmarks.startup` runs a script of each paper in turns, each time as a process that ends after one step.
CIFAR-100 comes from data/, or is generated where it is absent.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from common.command_line import REPOSITORY, ArgumentParser, cli_main, positive_int

COMMANDS = {
    "tfkd": "tfkd.main --model_dir base_shufflenetv2",
    "edkd": "edkd.tools.train --cfg configs/cifar100/vanilla.yaml DISTILLER.STUDENT resnet8x4",
    "mtkd_rl": "mtkd_rl.train_baseline --model ShuffleV2",
    "mlkd": "mlkd.train_teacher --model resnet18 -n teacher --no-pretrained -d cifar-100 -b 4",
}
STAGES = ("import", "data", "building", "first step")


def child() -> None:
    """Run `sys.argv[2:]`, a script and its arguments, until a step is done; print the seconds of STAGES as JSON."""
    started = float(sys.argv[1])
    script = importlib.import_module(sys.argv[2])
    imported = time.time()
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from common.data import Batch, DeviceLoader, cifar

    calls = {}

    def timed(function, *args, **options):
        before = time.time()
        result = function(*args, **options)
        calls.setdefault(function.__name__, (before, time.time()))
        return result

    epoch_of = DeviceLoader.epoch

    def timed_epoch(self: DeviceLoader, epoch: int = 0) -> Iterator[Batch]:
        return timed(epoch_of, self, epoch)

    def stop(*_) -> None:
        data, begun = calls["load"][1] - calls["load"][0], calls["epoch"][0]
        print(json.dumps([imported - started, data, begun - imported - data, time.time() - begun]), flush=True)
        os._exit(0)

    cifar.load = functools.partial(timed, cifar.load)
    DeviceLoader.epoch = timed_epoch
    register_optimizer_step_post_hook(stop)
    sys.argv = [script.__file__, *sys.argv[3:]]
    script.main()


def measure(command: str, data: Path) -> list[float]:
    """The seconds of each stage of one run, in a directory of its own."""
    call = [sys.executable, "-c", "from benchmarks.startup import child; child()", str(time.time())]
    call += [*command.split(), "--data-dir", str(data), "--no-download"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with tempfile.TemporaryDirectory() as directory:
        shutil.copytree(REPOSITORY / "experiments/base_experiments", directory, dirs_exist_ok=True)
        ended = subprocess.run(call, cwd=directory, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(ended.stdout.splitlines()[-1])


@cli_main
def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=positive_int, default=3)
    rounds = parser.parse_args().rounds
    from benchmarks.timing import hardware  # here: what this module imports is in the times
    from common.data.synthetic import write_generated

    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary)  # a cache of its own
        if (real := REPOSITORY / "data/cifar-100-python").is_dir():
            (data / real.name).symlink_to(real)
        else:
            write_generated(data, train_per_class=500, test_per_class=100)
        seconds = {(paper, cache): [] for paper in COMMANDS for cache in ("empty", "filled")}
        for _ in range(rounds + 1):
            for (paper, cache), runs in seconds.items():
                if cache == "empty":
                    shutil.rmtree(data / ".cache", ignore_errors=True)
                runs.append(measure(COMMANDS[paper], data))
    print(f"start-up in seconds, medians of {rounds} rounds | {hardware()}")
    print(f"{'':16}" + "".join(f"{stage:>12}" for stage in (*STAGES, "together")))
    for (paper, cache), (_, *runs) in seconds.items():  # the first round warms up
        columns = [statistics.median(column) for column in zip(*((*run, sum(run)) for run in runs), strict=True)]
        print(f"{paper:8} {cache:6} " + "".join(f"{column:12.2f}" for column in columns))


if __name__ == "__main__":
    main()
