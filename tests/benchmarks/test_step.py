"""The benchmark of a step runs, both sides compute the same loss, and all of its report is there."""

import re

import pytest


@pytest.mark.slow
def test_step(call):
    networks = ["--paper", "edkd", "--teacher", "resnet8", "--student", "resnet8"]
    size = ["--batch-size", "4", "--rounds", "1", "--steps", "2", "--workers", "1", "--device", "cpu"]
    ended = call([*networks, *size, "--profile"], "benchmarks.step")
    assert ended.code == 0, ended.stderr
    assert float(re.search(r"largest relative difference (\S+)", ended.stdout)[1]) < 1e-4
    assert re.search(r"ours .* images/s .* ratio \d", ended.stdout)
    assert re.search(r"ours .* GFLOP/s, \d\.\d\d of the float32 product", ended.stdout)
    assert re.search(r"convolution, backward +\d+\.\d%", ended.stdout)
