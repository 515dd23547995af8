"""Data sets on disk -> uint8 arrays -> batches that are cut, augmented and normalised on the training device."""

from common.data.augmentation import Augmentation, Normalization
from common.data.batches import Batch, Batches
from common.data.datasets import Dataset, ImageArrays, load_dataset
from common.data.rand_augment import RandAugment

__all__ = ["Augmentation", "Batch", "Batches", "Dataset", "ImageArrays", "Normalization", "RandAugment", "load_dataset"]
