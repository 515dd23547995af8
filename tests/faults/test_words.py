"""Words of YAML that are no numbers to people are none, and what stands in a file is what a run gets."""

import pytest

from common.errors import UserError
from common.safe_yaml import read_yaml
from edkd.engine.cfg import CFG

TEXTS = [
    *("12:30", "12:30:00", "1:30.5", "190:20:30", "2020-01-01", "2020-1-1", "2001-12-14T21:59:43.10-05:00"),
    *("2001-12-14 21:59:43", "010", "007", "-010", "00", "0o10", "1.2.3", "1e", "1:2:3:4", "v1", "+", "."),
]
NUMBERS = {
    "0": 0,
    "10": 10,
    "-3": -3,
    "+4": 4,
    "0x10": 16,
    "0b11": 3,
    "1_000": 1000,
    "1.5": 1.5,
    "-.5": -0.5,
    "1.0e-4": 1e-4,
    "2.": 2.0,
    ".inf": float("inf"),
    "1.5E+3": 1500.0,
    "0.10": 0.1,
}


@pytest.mark.parametrize("text", TEXTS)
def test_dates_times_and_leading_zeros_are_text(text):
    assert read_yaml(f"a: {text}") == {"a": text}
    cfg = CFG.clone()
    cfg.merge_from_mapping(read_yaml(f"EXPERIMENT: {{NAME: '{text}'}}"))
    quoted = cfg.EXPERIMENT.NAME
    cfg.merge_from_mapping(read_yaml(f"EXPERIMENT:\n  NAME: {text}"))
    assert cfg.EXPERIMENT.NAME == quoted == text


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_are_numbers(text):
    value = read_yaml(f"a: {text}")["a"]
    assert (value, type(value)) == (NUMBERS[text], type(NUMBERS[text]))


def test_leading_zeros_of_a_number_are_zeros():
    cfg = CFG.clone()
    cfg.merge_from_mapping(read_yaml("SOLVER: {EPOCHS: 010, LR_DECAY_STAGES: [08, 010]}"))
    assert (cfg.SOLVER.EPOCHS, cfg.SOLVER.LR_DECAY_STAGES) == (10, [8, 10])


@pytest.mark.parametrize("key", ["EPOCHS", "LR", "LR_DECAY_STAGES"])
def test_a_time_is_no_number(key):
    with pytest.raises(UserError, match=rf"'SOLVER\.{key}' is '1:30'"):
        CFG.clone().merge_from_mapping(read_yaml(f"SOLVER: {{{key}: '1:30'}}"))
    with pytest.raises(UserError, match=rf"'SOLVER\.{key}' is '1:30'"):
        CFG.clone().merge_from_mapping(read_yaml(f"SOLVER:\n  {key}: 1:30"))


def test_a_key_with_dots_in_a_file_says_how_it_is_written():
    with pytest.raises(UserError, match=r"unknown key 'SOLVER\.LR': write it as SOLVER: \{LR: \.\.\.\}$"):
        CFG.clone().merge_from_mapping(read_yaml("SOLVER.LR: 0.1"))
