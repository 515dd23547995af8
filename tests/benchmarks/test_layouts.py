"""The table of layouts: what is made of its rows, and that it is measured."""

import json

import pytest
import torch

from benchmarks import layouts
from benchmarks.layouts import Row, report, suggestions
from common.models import list_models
from common.training.layouts import LAYOUTS

CPU = torch.device("cpu")


def row(network: str, kind: str, precision: str, eager: tuple[float, float], replayed: tuple[float, float]) -> Row:
    rates = {(layout, "eager"): rate for layout, rate in zip(layouts.FORMATS, eager, strict=True)}
    rates |= {(layout, "replayed"): rate for layout, rate in zip(layouts.FORMATS, replayed, strict=True)}
    return Row(network, kind, precision, rates, {key: "captured" if key[1] == "replayed" else "eager" for key in rates})


def test_suggestions_are_geometric_means_of_replayed_steps():
    rows = [
        row("a", "dense", "fp32", (1.0, 9.0), (200.0, 100.0)),
        row("b", "dense", "fp32", (1.0, 9.0), (100.0, 800.0)),
        row("c", "grouped", "fp32", (9.0, 1.0), (300.0, 100.0)),
    ]
    found = suggestions(rows)
    assert found["fp32", "dense"] == ("contiguous", pytest.approx(2.0))
    assert found["fp32", "grouped"] == ("channels_last", pytest.approx(3.0))


def test_the_report_says_where_the_table_has_the_other():
    assert LAYOUTS["cpu", "fp32", "dense"] == torch.channels_last
    agreeing, close, at_odds = (
        row("a", "dense", "fp32", (1.0, 1.0), pair) for pair in ((200.0, 100.0), (100.0, 102.0), (100.0, 200.0))
    )
    assert "as the table has it" in report([agreeing], CPU)[0]
    assert report([close], CPU)[0].endswith("the table has the other, which costs little")
    assert report([at_odds], CPU)[0].endswith("contiguous is 2.00 times as fast, the table has the other")
    assert [one.contradicts(CPU) for one in (agreeing, close, at_odds)] == [False, False, True]


def test_a_row_says_that_it_fell_back():
    one = row("tfkd/resnet18", "dense", "bf16", (100.0, 50.0), (400.0, 100.0))
    assert str(one).split() == ["tfkd/resnet18", "dense", "bf16", "100", "50", "2.00", "400", "100", "4.00"]
    one.how["contiguous", "replayed"] = "eager: no GPU"
    assert str(one).endswith("replayed: eager: no GPU")


def test_all_networks_are_known():
    for network in (*layouts.NETWORKS, *layouts.ALL_NETWORKS):
        family, _, name = network.partition("/")
        assert name in list_models(family)
    assert layouts.networks_of(["all"]) == layouts.ALL_NETWORKS


@pytest.mark.slow
def test_a_table_is_measured(call, tmp_path):
    size = ["--batch-size", "2", "--rounds", "1", "--seconds", "0", "--device", "cpu"]
    what = ["--networks", "mdistiller/resnet8", "mdistiller/ShuffleV1"]
    ended = call([*what, *size, "--output", str(tmp_path / "rows.json")], "benchmarks.layouts")
    assert ended.code == 0, ended.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [(r["kind"], r["precision"]) for r in rows] == [
        (kind, precision) for kind in ("dense", "grouped") for precision in ("fp32", "bf16")
    ]
    assert all(r[f"{layout} {mode}"] > 0 for r in rows for layout in layouts.FORMATS for mode in layouts.MODES)
    assert all(how == "eager: no GPU" or "graphs" in how for r in rows for how in r["how"].values())
    assert ended.stdout.count("times as fast") == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--networks", "tfkd/resnet19"], "--networks tfkd/resnet19"),
        (["--networks", "resnet18"], "FAMILY/NAME"),
        (["--amp", "bf16"], "leave their flags out"),
        (["--plain"], "leave their flags out"),
        (
            ["--precisions", "fp32", "tf32", "--device", "cpu"],
            "--precisions tf32: TF32 is a precision of NVIDIA's GPUs",
        ),
    ],
)
def test_bad_input(call, flags, message):
    ended = call(flags, "benchmarks.layouts")
    assert (ended.code, ended.stdout) == (2, "")
    assert message in ended.stderr


def test_without_time_rows_are_said_to_be_missing(call):
    ended = call(["--minutes", "0", "--device", "cpu"], "benchmarks.layouts")
    assert ended.code == 0
    assert "out of time: 8 rows are not measured" in ended.stdout
