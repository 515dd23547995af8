"""Mixup and CutMix of whole batches, against timm's own."""

import pytest
import timm.data.mixup
import torch

from mlkd.mixup_cutmix import Mix, MixupCutmix, smooth_one_hot

IMAGES, TARGETS = torch.rand(6, 3, 12, 10), torch.tensor([0, 4, 2, 1, 3, 3])


class Fixed(MixupCutmix):
    """Mixes in one way."""

    def __init__(self, mix: Mix) -> None:
        super().__init__(5, 1.0, 1.0)
        self.mix = mix

    def draw(self, height: int, width: int) -> Mix:
        return self.mix


@pytest.mark.parametrize("cut", [False, True])
def test_as_timm_mixes(cut, monkeypatch):
    """The same share and box give the same images and targets."""
    theirs = timm.data.mixup.Mixup(1.0, 1.0, label_smoothing=0.1, num_classes=5)
    monkeypatch.setattr(theirs, "_params_per_batch", lambda: (0.3, cut))
    box = (2, 9, 0, 6)
    monkeypatch.setattr(timm.data.mixup, "rand_bbox", lambda *args, **options: box)
    ours = Fixed(Mix(1 - 7 * 6 / 120, 1.0, box) if cut else Mix(0.3, 0.3))
    images, targets = ours(IMAGES, TARGETS)
    wanted_images = IMAGES.clone()
    wanted_targets = theirs_targets = theirs(wanted_images, TARGETS)[1]
    assert theirs_targets.shape == (6, 5)
    torch.testing.assert_close(images, wanted_images)
    torch.testing.assert_close(targets, wanted_targets)


def test_smoothing():
    rows = smooth_one_hot(TARGETS, 5)
    assert rows[1].tolist() == pytest.approx([0.02, 0.02, 0.02, 0.02, 0.92])


def test_an_odd_batch_mixes_its_middle_with_itself():
    images, targets = Fixed(Mix(0.3, 0.3))(IMAGES[:5], TARGETS[:5])
    torch.testing.assert_close(images[2], IMAGES[2])
    torch.testing.assert_close(targets[2], smooth_one_hot(TARGETS, 5)[2])
    torch.testing.assert_close(images[0], 0.3 * IMAGES[0] + 0.7 * IMAGES[4])


def test_draws():
    """Both kinds equally often, shares of Beta(1, 1), boxes whose area is the share of the partner."""
    torch.manual_seed(0)
    mixes = [MixupCutmix(5, 1.0, 1.0).draw(224, 224) for _ in range(600)]
    cuts = [mix for mix in mixes if mix.blend == 1.0]
    assert 240 < len(cuts) < 360
    shares = torch.tensor([mix.lam for mix in mixes if mix.blend != 1.0])
    assert abs(shares.mean() - 0.5) < 0.05
    assert abs(shares.std() - 12**-0.5) < 0.03
    for mix in cuts:
        top, bottom, left, right = mix.box
        assert 0 <= top <= bottom <= 224
        assert 0 <= left <= right <= 224
        assert mix.lam == pytest.approx(1 - (bottom - top) * (right - left) / 224**2)


def test_one_kind_or_none():
    assert all(MixupCutmix(5, 1.0, 0.0).draw(8, 8).blend < 1 for _ in range(20))
    assert all(MixupCutmix(5, 0.0, 1.0).draw(8, 8).blend == 1 for _ in range(20))
    images, targets = MixupCutmix(5, 0.0, 0.0)(IMAGES, TARGETS)
    assert images is IMAGES
    assert targets is TARGETS


def test_the_seed_decides():
    def mixed(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return MixupCutmix(5, 1.0, 1.0)(IMAGES, TARGETS)[0]

    assert torch.equal(mixed(1), mixed(1))
    assert not torch.equal(mixed(1), mixed(2))
