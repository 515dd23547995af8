"""Pages of methods are filled in from published figures, the plan and measured runs."""

import json

import pytest

from common.errors import UserError
from common.results import method_pages
from common.results.method_pages import Sources, load_pages, render, stale

PAGE = """# KD

<!-- generated: metrics -->
<!-- end -->

<!-- generated: configurations -->
<!-- end -->

<!-- generated: results -->
what was here before
<!-- end -->

The end.
"""
README = """# Methods

<!-- generated: methods -->
<!-- end -->

## Metrics of every run

| metric | what it is |
| --- | --- |
| `train/loss` | a loss |

## Other

| `not/this` | x |
"""


@pytest.fixture
def directory(tmp_path):
    """Pages of a directory of their own: one, of KD."""
    (tmp_path / "pages.json").write_text(
        json.dumps({"kd.md": {"methods": ["edkd KD"], "cells": [["edkd/dkd-original", "KD", "resnet56*"]]}})
    )
    (tmp_path / "kd.md").write_text(PAGE)
    (tmp_path / "README.md").write_text(README)
    return tmp_path


def filled(directory) -> dict[str, str]:
    return {file.name: text for file, text in stale(Sources.read(directory), directory).items()}


def test_parts_are_filled_in(directory):
    page = filled(directory)["kd.md"]
    assert "`train/loss`" in page
    assert "not/this" not in page
    assert "| `configs/cifar100/kd/res56_res20.yaml`" in page
    assert "| KD  | resnet56 / resnet20 |     70.66 |" in page
    assert "resnet110 / resnet32 |" not in page.partition("generated: results")[2]
    assert "what was here before" not in page
    assert page.endswith("The end.\n")


def test_measured_runs_of_the_method_stand_below(directory):
    page = filled(directory)["kd.md"].partition("generated: results")[2]
    assert "`cifar100/kd/res56_res20 DISTILLER.STUDENT resnet8 DISTILLER.TEACHER resnet20`" in page
    assert "cifar100/dkd" not in page
    assert "this does not reproduce the figure" in page


def test_the_list_names_the_networks(directory):
    text = filled(directory)["README.md"]
    assert "| [KD](kd.md) | [`edkd/`](../../edkd) |" in text
    assert "ResNet34 / ResNet18 (imagenet)" in text


def test_what_is_up_to_date_stays(directory):
    for file, text in stale(Sources.read(directory), directory).items():
        file.write_text(text)
    assert not filled(directory)
    page = directory / "kd.md"
    page.write_text(page.read_text().replace("70.66", "99.99"))
    assert list(filled(directory)) == ["kd.md"]


def test_the_check_names_what_is_out_of_date(directory, monkeypatch, capsys):
    wanted = stale(Sources.read(directory), directory)
    monkeypatch.setattr(method_pages, "stale", lambda sources: wanted)
    monkeypatch.setattr("sys.argv", ["method_pages", "--check"])
    with pytest.raises(SystemExit) as end:
        method_pages.main()
    assert end.value.code == 2
    assert "kd.md" in capsys.readouterr().err
    assert (directory / "kd.md").read_text() == PAGE


def test_a_page_that_is_not_there(directory):
    (directory / "kd.md").unlink()
    with pytest.raises(UserError, match=r"kd\.md, which does not exist"):
        load_pages(directory)


def test_an_unknown_part():
    with pytest.raises(UserError, match="nothing is generated as 'figures'"):
        render("<!-- generated: figures -->\n<!-- end -->", {"results": str})
