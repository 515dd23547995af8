"""In which memory layout a run computes."""

import pytest
import torch
from torch import nn

from common.models import create_model
from common.training.evaluation import Evaluation
from common.training.layouts import CHANNELS_LAST, CONTIGUOUS, LAYOUTS, convolution_kind, layout_for, layout_name
from common.training.runtime import AMP_DTYPES, Runtime
from tests.training.test_engine import batches, trainer

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_the_table_is_whole():
    precisions = {"cpu": {"fp32", "bf16"}, "cuda": {"fp32", "tf32", "bf16", "fp16"}}
    expected = {(d, p, kind) for d, names in precisions.items() for p in names for kind in ("dense", "grouped")}
    assert LAYOUTS.keys() == expected
    for device in (CPU, GPU):
        for amp in AMP_DTYPES:
            for tf32 in (False, True):
                precision = Runtime(device, amp=amp, tf32=tf32).precision
                assert device == CPU or precision in precisions["cuda"]


@pytest.mark.parametrize(
    ("name", "family", "kind"),
    [
        ("resnet8x4", "mdistiller", "dense"),
        ("vgg8", "mdistiller", "dense"),
        ("wrn_16_2", "mdistiller", "dense"),
        ("ShuffleV2", "mtkd_rl", "grouped"),
        ("MobileNetV2", "mtkd_rl", "grouped"),
        ("RegNetX_200MF", "mtkd_rl", "grouped"),
        ("resnext29", "tfkd", "grouped"),
    ],
)
def test_kinds_of_convolutions(name, family, kind):
    assert convolution_kind(create_model(name, 10, family=family)) == kind


def test_the_layout_follows_device_precision_and_kind():
    dense, grouped = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, groups=2)
    assert layout_for(dense, Runtime(CPU)) == CHANNELS_LAST
    assert layout_for(dense, Runtime(GPU)) == LAYOUTS["cuda", "fp32", "dense"]
    assert layout_for(dense, Runtime(GPU, amp="bf16")) == LAYOUTS["cuda", "bf16", "dense"]
    assert layout_for(grouped, Runtime(GPU, tf32=True)) == LAYOUTS["cuda", "tf32", "grouped"]
    assert layout_for(nn.Sequential(dense, grouped), Runtime(GPU)) == LAYOUTS["cuda", "fp32", "grouped"]
    assert layout_for(dense, Runtime(CPU, plain=True)) == layout_for(dense, Runtime(GPU, plain=True)) == CONTIGUOUS


@pytest.mark.parametrize("layout", [CHANNELS_LAST, CONTIGUOUS])
def test_a_run_computes_in_one_layout(layout, tmp_path):
    """Weights, images of training and images of evaluation."""
    seen = []

    class Watching(nn.Sequential):
        def forward(self, x):
            seen.append(x)
            return super().forward(x)

    training = trainer(tmp_path, layout=layout)
    training.method.student = Watching(nn.Conv2d(3, 4, 2), nn.Flatten(), nn.Linear(4, 3)).to(memory_format=layout)
    training.train_epoch(0, show_progress=False)
    Evaluation(training.method.student, batches(), training.runtime, layout=layout)()
    assert len(seen) == 8
    assert all(images.is_contiguous(memory_format=layout) for images in seen)
    assert training.execution()["layout"] == layout_name(layout)


def test_a_contiguous_fast_run_is_near_a_channels_last_one(tmp_path):
    figures = []
    for layout in (CHANNELS_LAST, CONTIGUOUS):
        training = trainer(tmp_path, layout=layout)
        figures.append([training.train_epoch(epoch, show_progress=False) for epoch in range(2)])
    for ours, theirs in zip(*figures, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
