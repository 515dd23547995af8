"""Data sets on disk -> uint8 arrays -> batches that are cut, augmented and normalised on the training device."""

from common.data.augmentation import Augmentation, Normalization
from common.data.batches import Batch, Batches
from common.data.datasets import Dataset, ImageArrays, load_dataset

__all__ = ["Augmentation", "Batch", "Batches", "Dataset", "ImageArrays", "Normalization", "load_dataset"]
