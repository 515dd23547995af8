"""Datasets on disk -> uint8 arrays -> batches that are cut, augmented and normalized on the training device."""

from common.data.augmentation import Augmentation, Normalization
from common.data.datasets import Dataset, ImageArrays, ImageSet
from common.data.device_loader import Batch, BatchLoader, DeviceLoader
from common.data.load import load_dataset
from common.data.rand_augment import RandAugment

__all__ = [
    "Augmentation",
    "Batch",
    "BatchLoader",
    "Dataset",
    "DeviceLoader",
    "ImageArrays",
    "ImageSet",
    "Normalization",
    "RandAugment",
    "load_dataset",
]
