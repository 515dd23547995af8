"""By which statistics each family's networks have images normalized."""

from __future__ import annotations

from common.data.augmentation import Normalization
from common.errors import UserError

CIFAR100 = Normalization(mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761))
CIFAR100_TFKD = Normalization(
    mean=(0.5070751592371323, 0.48654887331495095, 0.4409178433670343),
    std=(0.2673342858792401, 0.2564384629170883, 0.27615047132568404),
)
TINY_IMAGENET = Normalization(mean=(0.4802, 0.4481, 0.3975), std=(0.2302, 0.2265, 0.2262))
IMAGENET = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def normalization_of(family: str, dataset: str) -> Normalization:
    """That of a family's networks on a dataset that is held in memory.

    Raises:
        UserError: MTKD-RL's and mdistiller's have none for it; Tf-KD's takes CIFAR-100's for all, as published.
    """
    if dataset == "tiny_imagenet":
        return TINY_IMAGENET
    if family == "tfkd":
        return CIFAR100_TFKD
    if dataset == "cifar100":
        return CIFAR100
    raise UserError(f"networks of the family {family} are for cifar100 and tiny_imagenet, not {dataset}")
