"""Records of runs as tests write them."""

from common.run_record import RunRecord, Segment

SEGMENT = Segment(
    0,
    3,
    "2026-01-01T00:00:00+00:00",
    "c0ffee",
    {"torch": "2.11"},
    {"gpu": None, "cpu": "x"},
    {"device": "cpu", "amp": "off"},
)
DATA = {"content": "synthetic dataset", "fingerprint": "f" * 32}
BUDGET = {"epochs": 3, "published_epochs": 240, "published_batch_size": 64, "batches": None}


def make_record(**changes) -> RunRecord:
    """One run of one segment, with fields of its own."""
    fields = {"paper": "p", "experiment": "e", "method": "KD", "student": "net", "batch_size": 64, "seed": 1}
    return RunRecord(
        **{**fields, "settings": {"a": 1}, "data": DATA, "budget": BUDGET, "segments": [SEGMENT], **changes}
    )
