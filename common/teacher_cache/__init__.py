"""Teachers' logits that are kept from run to run, one row per view of an image."""

from common.teacher_cache.rows import RowFile, RowFileError

__all__ = ["RowFile", "RowFileError"]
