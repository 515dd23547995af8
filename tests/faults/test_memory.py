"""Too little memory, and a file that may not be read, are said as such; only damage is called damage."""

import errno
import pickle
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from common.command_line import cli_main
from common.data import cache, cifar
from common.errors import TrainingError, UserError, is_damage, is_out_of_memory, memory_shortage
from common.training.checkpoints import load_checkpoint
from common.training.gpu_memory import explained_out_of_memory
from edkd.engine.registry import load_distiller
from mlkd.teachers import InputSpec, create_network
from tests.faults.test_checkpoints import built
from tests.processes import CNN, record
from tests.training.test_engine import run_directory

CPU = (
    "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "40000000000000 bytes. Error code 12 (Cannot allocate memory)"
)
GPU = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.25 GiB."
WORKER = (
    "Caught MemoryError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File 'x.py', "
    "line 3\nnumpy._core._exceptions._ArrayMemoryError: Unable to allocate 3.5 TiB for an array with shape (9, 9)"
)

# error -> what is said about it
SHORT = {
    "bare": (MemoryError(), "not enough memory"),
    "numpy": (MemoryError("Unable to allocate 3.5 TiB for an array"), "not enough memory (unable to allocate 3.5 tib)"),
    "torch on a CPU": (RuntimeError(CPU), "not enough memory (tried to allocate 40000000000000 bytes)"),
    "torch on a GPU": (torch.OutOfMemoryError(GPU), "CUDA out of memory. Tried to allocate 2.00 GiB"),
    "CUDA itself": (RuntimeError("CUDA error: out of memory"), "CUDA error: out of memory"),
    "cuBLAS": (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "not enough memory"),
    "a worker": (MemoryError(WORKER), "not enough memory (unable to allocate 3.5 tib)"),
    "a worker that the system has killed": (
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
        "not enough memory",
    ),
    "the system": (OSError(errno.ENOMEM, "Cannot allocate memory"), "not enough memory"),
}
OTHER = [ValueError("out of range"), RuntimeError("size mismatch"), OSError(errno.EACCES, "denied"), KeyError("memory")]


@pytest.mark.parametrize("case", SHORT)
def test_short_memory_is_known(case):
    error, said = SHORT[case]
    assert is_out_of_memory(error)
    assert not is_damage(error)
    assert memory_shortage(error) == said


@pytest.mark.parametrize("error", OTHER, ids=str)
def test_other_errors_are_no_shortage(error):
    assert not is_out_of_memory(error)


def test_a_real_shortage():
    for take in (lambda: torch.empty(2**50), lambda: np.empty(2**50), lambda: bytearray(2**50)):
        with pytest.raises((MemoryError, RuntimeError)) as caught:
            take()
        assert is_out_of_memory(caught.value)


# ------------------------------------------------------------------------------------------------------- readers


def raising(error: BaseException):
    def function(*arguments, **options):
        raise error

    return function


@pytest.fixture
def checkpoint_file(tmp_path) -> Path:
    torch.save({"weight": torch.ones(2)}, tmp_path / "file")
    return tmp_path / "file"


def read_checkpoint(error: Exception, monkeypatch, tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "file")
    monkeypatch.setattr(torch, "load", raising(error))
    load_checkpoint(tmp_path / "file")


def read_cifar(error: Exception, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cifar._ArrayUnpickler, "find_class", raising(error))
    cifar._unpickle(tmp_path / "file", pickle.dumps(np.zeros(3)))


def read_cifar_bytes(error: Exception, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "read_bytes", raising(error))
    cifar._read_bytes(tmp_path / "file")


def read_cache(error: Exception, monkeypatch, tmp_path: Path) -> None:
    cache.cached(tmp_path, "name", [], dict)
    monkeypatch.setattr(np, "load", raising(error))
    cache.cached(tmp_path, "name", [], dict)


def build_network(error: Exception, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(timm, "create_model", raising(error))
    create_network("resnet18", InputSpec(64, 3, None, ()))


def import_distiller(error: Exception, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import builtins\nbuiltins.planted()\n")
    monkeypatch.setattr("builtins.planted", raising(error), raising=False)
    load_distiller(f"{tmp_path}/mine.py:Mine")


READERS = [read_checkpoint, read_cifar, read_cifar_bytes, read_cache, build_network, import_distiller]


@pytest.mark.parametrize("case", SHORT)
@pytest.mark.parametrize("read", READERS)
def test_short_memory_is_passed_on(read, case, monkeypatch, tmp_path):
    error, _ = SHORT[case]
    if isinstance(error, OSError) and read is read_checkpoint:
        return  # says "cannot read ... (Cannot allocate memory)" itself
    with pytest.raises(type(error)) as caught:
        read(error, monkeypatch, tmp_path)
    assert caught.value is error


def test_a_file_that_may_not_be_read_is_not_damaged(monkeypatch, tmp_path):
    denied = PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(UserError, match=r"^cannot read \S+ \(Permission denied\)$"):
        read_cifar_bytes(denied, monkeypatch, tmp_path)


@pytest.mark.slow
def test_a_checkpoint_that_may_not_be_read_is_not_damaged(checkpoint_file, monkeypatch):
    monkeypatch.setattr("builtins.open", raising(PermissionError(errno.EACCES, "Permission denied")))
    with pytest.raises(UserError, match=r"^cannot read \S+ \(Permission denied\)$"):
        load_checkpoint(checkpoint_file)


@pytest.mark.parametrize("error", [ValueError("x"), IndexError("x"), EOFError(), pickle.UnpicklingError("x")], ids=repr)
def test_damage_is_called_damage(error, monkeypatch, tmp_path):
    for read in (read_checkpoint, read_cifar):
        with monkeypatch.context() as patch, pytest.raises(UserError, match="is truncated or not a"):
            read(error, patch, tmp_path)


# --------------------------------------------------------------------------------------------------- the one line


@pytest.mark.parametrize("case", SHORT)
def test_a_script_ends_with_one_line(case, capsys):
    error, said = SHORT[case]
    with pytest.raises(SystemExit) as ended:
        cli_main(raising(error))()
    assert ended.value.code == 1
    assert capsys.readouterr().err == (
        f"error: {said}; take a smaller batch size or image size, fewer workers or processes, or more memory\n"
    )


def test_a_script_does_not_hide_other_errors():
    with pytest.raises(ZeroDivisionError):
        cli_main(raising(ZeroDivisionError()))()


@pytest.mark.parametrize("case", [case for case in SHORT if case != "the system"])
def test_training_says_what_to_lower(case):
    error, said = SHORT[case]
    with pytest.raises(TrainingError) as caught, explained_out_of_memory("training", graphs=False):
        raise error
    assert str(caught.value) == f"training: {said}; take a smaller batch size, or --amp bf16"


def test_a_run_that_is_short_of_memory_has_failed(tmp_path):
    training = built(tmp_path)
    training.method.forward = lambda *inputs: torch.empty(2**50)
    with pytest.raises(TrainingError, match=r"training: not enough memory .*; take a smaller batch size"):
        training.fit(run_directory(tmp_path))
    assert record(tmp_path)["status"] == "failed"
    assert "not enough memory" in record(tmp_path)["error"]


def test_data_that_do_not_fit(workspace, call, monkeypatch):
    workspace.experiment(CNN)
    monkeypatch.setattr(cifar, "_decode_release", raising(MemoryError()))
    monkeypatch.setattr(cache, "_read", lambda *_: None)
    ended = call(workspace.arguments(CNN))
    assert (ended.code, ended.stdout) == (1, "")
    assert ended.stderr.startswith("error: not enough memory; take ")
    assert "delete" not in ended.stderr
