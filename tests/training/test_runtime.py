"""What a run sets of the process that it runs in, and puts back."""

import signal

import pytest
import torch

from common.command_line import ArgumentParser, cli_main
from common.training.runtime import add_runtime_flags, runtime_from


def settings() -> tuple:
    return torch.get_num_threads(), torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


def test_pytorchs_settings_are_put_back():
    parser = ArgumentParser()
    add_runtime_flags(parser)
    before, wanted = settings(), torch.get_num_threads() + 2
    with runtime_from(parser.parse_args(["--device", "cpu", "--num-threads", str(wanted)])):
        assert settings() == (wanted, False, False)
    assert settings() == before != (wanted, False, False)


def test_signals_mean_again_what_they_meant():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("ours"))
    try:
        with pytest.raises(SystemExit) as ended:
            cli_main(lambda: signal.raise_signal(signal.SIGTERM))()
        assert (ended.value.code, heard) == (130, [])
        signal.raise_signal(signal.SIGTERM)
        assert heard == ["ours"]
    finally:
        signal.signal(signal.SIGTERM, before)
