"""Every distiller learns: some steps on CIFAR-100, the real one where it is, with a falling loss."""

import numpy as np
import pytest
import torch

from common.command_line import REPOSITORY
from common.data import DeviceLoader, load_dataset
from common.models import create_model
from common.training.runtime import Runtime
from edkd.distillers import distiller_dict
from edkd.engine.experiment import CIFAR100
from edkd.engine.method import make_method
from edkd.engine.solver import make_optimizer
from tests.edkd.checks import SMALL, configuration

STEPS, ENDS = 24, 6


@pytest.fixture(scope="module")
def images(generated_data):
    """A hundred training images, four of each of 25 classes."""
    real = REPOSITORY / "data"
    root = real if (real / "cifar-100-python").is_dir() else generated_data
    train = load_dataset("cifar100", root, download=False).train
    chosen = np.concatenate([np.flatnonzero(train.targets == c)[:4] for c in range(25)])
    return train.take(chosen)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "trainer"),
    [
        *((kind, "crd" if kind == "CRD" else "base") for kind in distiller_dict),
        *(("KD", "dot"), ("EDKD", "dot")),
    ],
)
def test_the_loss_falls(kind, trainer, images):
    # OFD's and FitNet's published weights are for trained teachers; a teacher of initial weights has larger features
    changes = {"OFD": {"LOSS": {"FEAT_WEIGHT": 1e-5}}, "CRD": {"NCE": {"K": 64}}}
    hyper = {**SMALL.get(kind, {}), **changes.get(kind, {})}
    cfg = configuration(kind, hyper, TRAINER=trainer, LR=0.005 if trainer == "dot" else 0.02)
    torch.manual_seed(0)
    student, teacher = create_model("resnet8"), create_model("resnet14")
    batches = DeviceLoader(images, 50, CIFAR100[0], augmentation=CIFAR100[1], shuffle=True)
    method = make_method(cfg, student, teacher, batches.targets, Runtime(torch.device("cpu"))).train()
    optimizer = make_optimizer(cfg, [p for p in method.parameters() if p.requires_grad])
    totals = []
    # CRD's first scores are against random memories, and rise as these fill
    first = 10 if kind == "CRD" else 0
    for epoch in range((STEPS + 2 * first) // len(batches)):
        for batch in batches.epoch(epoch):
            step = method(batch.images, batch.targets, batch.indices, 19)  # past the warm-up
            optimizer.zero_grad()
            method.backward(step.losses, optimizer)
            optimizer.step()
            totals.append(sum(loss.item() for loss in step.losses.values()))
    assert np.isfinite(totals).all()
    assert np.mean(totals[-ENDS:]) < np.mean(totals[first : first + ENDS])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV2", "ShuffleV1", "ShuffleV2", "vgg8", "wrn_16_1", "ResNet18", "resnet8x4"])
def test_published_pairs_fit(name):
    """Students of other families under the methods that compare logits, embeddings and maps."""
    for kind in ("EDKD", "AT", "SP", "NST", "PKT", "RKD", "VID"):
        teacher = create_model("vgg11" if name in ("vgg8", "MobileNetV2") else "wrn_16_1")
        make_method(configuration(kind), create_model(name), teacher, torch.arange(4) % 2, Runtime(torch.device("cpu")))
