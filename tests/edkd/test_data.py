"""The datasets of this framework beside CIFAR-100: ImageNet at 224 by worker processes, Tiny-ImageNet."""

import json

import pytest
import torch

from common.data import Normalization
from common.data.image_files import ImageFileLoader, load_imagenet
from common.data.synthetic import write_generated
from common.errors import UserError
from tests.material import shared_or_skip

PLAIN = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_generated(root, "imagenet", classes=3, train_per_class=5, test_per_class=2)
    write_generated(root, "tiny-imagenet-200", classes=3, train_per_class=8, test_per_class=3)
    return root


def flags(root, tmp_path) -> list[str]:
    return ["--data-dir", root, "--device", "cpu", "--epochs", "1", "LOG.WANDB", "False", "LOG.PREFIX", tmp_path / "o"]


def batches(root, epoch: int = 0, part: str = "train", **options) -> list:
    images = getattr(load_imagenet(root), part)
    return list(ImageFileLoader(images, 4, PLAIN, train=part == "train", **options).epoch(epoch))


class TestLargeImages:
    def test_the_set(self, root):
        data = load_imagenet(root)
        assert (data.num_classes, len(data.train), len(data.test)) == (3, 15, 6)
        assert data.content.startswith("synthetic dataset")
        kept, cut = data.train.split(0.2)
        assert (len(kept), len(cut)) == (12, 3)
        assert sorted(cut.targets.tolist()) == [0, 1, 2]

    def test_batches(self, root):
        drawn = batches(root)
        assert [tuple(b.images.shape) for b in drawn] == [(4, 3, 224, 224)] * 3 + [(3, 3, 224, 224)]
        assert [b.global_size for b in drawn] == [4, 4, 4, 3]
        assert drawn[0].images.is_contiguous(memory_format=torch.channels_last)
        assert 0 <= drawn[0].images.min() < drawn[0].images.max() <= 1
        indices = torch.cat([b.indices for b in drawn])
        assert sorted(indices.tolist()) == list(range(15))
        targets = torch.from_numpy(load_imagenet(root).train.targets)
        assert torch.equal(torch.cat([b.targets for b in drawn]), targets[indices])

    def test_workers_and_repeats_change_nothing_and_epochs_do(self, root):
        torch.manual_seed(1)
        alone = batches(root, epoch=1)
        after = torch.rand(1)
        torch.manual_seed(1)
        assert torch.equal(torch.rand(1), after)  # decoding leaves the loop's generator alone
        shared = batches(root, epoch=1, workers=2)
        other = batches(root, epoch=2)
        for a, b in zip(alone, shared, strict=True):
            assert torch.equal(a.images, b.images)
            assert torch.equal(a.indices, b.indices)
        assert not torch.equal(alone[0].images, other[0].images)

    def test_processes_share_each_batch(self, root):
        whole = batches(root, limit=2)
        parts = [batches(root, limit=2, rank=rank, world_size=2) for rank in (0, 1)]
        for b, *shares in zip(whole, *parts, strict=True):
            assert torch.equal(torch.cat([s.images for s in shares]), b.images)
            assert all(s.global_size == b.global_size for s in shares)

    def test_evaluation_is_the_middle_crop_in_order(self, root):
        first, second = (torch.cat([b.images for b in batches(root, epoch, "test")]) for epoch in (0, 1))
        assert torch.equal(first, second)
        assert torch.cat([b.indices for b in batches(root, part="test")]).tolist() == list(range(6))

    def test_faults(self, root, tmp_path):
        with pytest.raises(UserError, match=r"common\.data\.synthetic"):
            load_imagenet(tmp_path)
        (tmp_path / "imagenet/train/a").mkdir(parents=True)
        (tmp_path / "imagenet/val/a").mkdir(parents=True)
        with pytest.raises(UserError, match="no images"):
            load_imagenet(tmp_path)
        for folder in ("train/a", "train/b", "val/a", "val/b"):
            (tmp_path / "imagenet" / folder).mkdir(exist_ok=True)
            (tmp_path / "imagenet" / folder / "x.JPEG").write_bytes(b"no image")
        with pytest.raises(UserError, match=r"cannot read image .*x\.JPEG"):
            batches(tmp_path)


@pytest.mark.slow
def test_imagenet_from_the_command_line(run_script, root, tmp_path):
    small = ["DISTILLER.STUDENT", "MobileNetV1", "SOLVER.BATCH_SIZE", "4", "DATASET.NUM_WORKERS", "1"]
    cfg = ["--cfg", "configs/imagenet/vanilla.yaml", *small, "--limit-train-batches", "1", *flags(root, tmp_path)]
    ended = run_script("train", *cfg)
    assert ended.code == 0, ended.stderr
    (file,) = (tmp_path / "o").glob("**/run.json")
    assert json.loads(file.read_text())["data"]["name"] == "imagenet"
    weights = file.with_name("student_best")
    ended = run_script("eval", "-m", "MobileNetV1", "-d", "imagenet", "-c", weights, "--data-dir", root, "-bs", "4")
    assert "on 6 test images of imagenet" in ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize("real", [False, True], ids=["generated", "real subset"])
def test_tiny_imagenet_from_the_command_line(real, run_script, root, tmp_path):
    if real:
        mini = shared_or_skip("data/tiny-imagenet-200-mini")
        root = tmp_path / "data"
        root.mkdir()
        (root / "tiny-imagenet-200").symlink_to(mini)
    small = ["SOLVER.BATCH_SIZE", "8", "--limit-train-batches", "1", "--limit-eval-batches", "1"]
    where = [*small, *flags(root, tmp_path)]
    assert run_script("train", "--cfg", "configs/tiny_imagenet/vanilla.yaml", *where).code == 0
    ended = run_script("train", "--cfg", "configs/tiny_imagenet/dot/r18_mv2.yaml", *where)
    assert ended.code == 0, ended.stderr
    assert "trained here for 1 epochs" in ended.stdout
