"""What tests of all parts share: one thread, synthetic data, small experiments."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # sizes are tiny here, and runs are compared bit for bit

import gc
import importlib
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from common.data.synthetic import write_generated
from tests.processes import Ended, Workspace, spare_the_disk

spare_the_disk()

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's background job; Ctrl-C is tested in children
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What is imported stays: whoever collects garbage, as captures of graphs do, need not look through it."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def compiler_cache(tmp_path_factory) -> None:
    """`torch.compile` starts anew: what an earlier run left, killed perhaps, has no say. It does so in one process,
    where others would first import all of it."""
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path_factory.mktemp("torch_compile"))


@pytest.fixture(scope="session")
def generated_data(tmp_path_factory) -> Path:
    """Directory of datasets: 300 training and 100 test images in CIFAR-100's layout, as many in CIFAR-10's."""
    root = tmp_path_factory.mktemp("data")
    write_generated(root, "cifar-100", train_per_class=3, test_per_class=1)
    write_generated(root, "cifar-10", train_per_class=30, test_per_class=10)
    return root


@pytest.fixture
def workspace(tmp_path, generated_data) -> Workspace:
    """A directory for small experiments."""
    return Workspace(tmp_path / "workspace", generated_data)


@pytest.fixture
def call(workspace, monkeypatch, capsys) -> Callable[..., Ended]:
    """Calls a script's `main` in this process, with the workspace as working directory: quicker than a process."""

    def main(arguments: list[str], script: str = "tfkd.main") -> Ended:
        monkeypatch.chdir(workspace.root)
        monkeypatch.setattr(sys, "argv", [f"{script.rpartition('.')[2]}.py", *arguments])
        capsys.readouterr()
        code = 0
        with warnings.catch_warnings(record=True) as caught:  # pytest would keep them from standard error
            warnings.simplefilter("default", UserWarning)
            try:
                importlib.import_module(script).main()
            except SystemExit as exit:
                code = exit.code
        output, errors = capsys.readouterr()
        return Ended(code, output, errors + "".join(str(warning.message) for warning in caught))

    return main
