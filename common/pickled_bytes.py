"""Bytes as pickles of the protocols before Python 3 have them: text, and a call that encodes it."""

from __future__ import annotations

import pickle


def latin_1(text: str, encoding: str) -> bytes:
    """In the place of `_codecs.encode`; no other codec is looked up.

    Raises:
        pickle.UnpicklingError: another encoding.
    """
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it refers to the encoding {encoding!r:.40}")
    return text.encode("latin1")
