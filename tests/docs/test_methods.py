"""Every method has its page, and the page says what is true: metrics, commands, hyperparameters, references."""

import importlib
import json
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import nn

from common.command_line import REPOSITORY
from common.models import create_model
from common.plan.plan import load_plan
from common.results.method_pages import Sources, load_pages, stale
from common.training.method import Method
from edkd.distillers import distiller_dict
from edkd.engine.cfg import CFG
from edkd.engine.method import make_distiller
from mlkd.methods import FineTuning, MultiLevel
from mlkd.mixup_cutmix import MixupCutmix
from mlkd.student import MultiResNetV2
from mtkd_rl.methods import MultiTeacherRL
from mtkd_rl.multi_teacher import Averaging
from tests.edkd.checks import SMALL, configuration
from tfkd.methods import Baseline, Distillation, LabelSmoothing, Regularization

PAGES = load_pages()
SECTIONS = ("Paper", "Method", "Command", "Metrics", "Hyperparameters", "Published and measured", "Divergences")
K, N = 4, 6


def page_of(paper: str, method: str) -> list:
    return [page for page in PAGES if (paper, method) in page.methods]


def by_name(page) -> str:
    return page.file.name


def section(page, name: str) -> str:
    return page.text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]


def mentioned(page) -> set[str]:
    """Metrics in the tables and sentences of a page; a teacher's name is `<teacher>`."""
    return set(re.findall(r"`([\w/<>-]+)`", section(page, "Metrics")))


def without_teacher(metric: str) -> str:
    """A metric's name, with `<teacher>` for the name of one."""
    return re.sub(r"(?<=_weight/).*", "<teacher>", metric)


class TestTemplate:
    @pytest.mark.parametrize("page", PAGES, ids=by_name)
    def test_sections(self, page):
        assert re.findall(r"^## (.*)$", page.text, flags=re.MULTILINE) == list(SECTIONS)
        assert all(section(page, name).strip() for name in SECTIONS)

    @pytest.mark.parametrize("page", PAGES, ids=by_name)
    def test_nothing_generated_is_left_out(self, page):
        found = re.findall(r"<!-- generated: (\w+) -->", page.text)
        assert found == ["metrics", "configurations", "results"]

    @pytest.mark.slow
    def test_generated_parts_are_up_to_date(self):
        """If this fails: python -m common.results.method_pages"""
        assert not [file.name for file in stale(Sources.read())]

    def test_every_page_is_listed(self):
        files = {file.name for file in (REPOSITORY / "docs" / "methods").glob("*.md")} - {"README.md"}
        assert files == {page.file.name for page in PAGES}

    @pytest.mark.parametrize("page", PAGES, ids=by_name)
    def test_references(self, page):
        known = set(re.findall(r"^@\w+\{([^,]+),", (REPOSITORY / "docs/references.bib").read_text(), re.MULTILINE))
        keys = re.findall(r"BibTeX\s+key\s+`([^`]+)`", page.text)
        assert set(keys) <= known
        assert keys or page.file.name in ("baseline.md", "fine-tuning.md")

    @pytest.mark.parametrize("page", PAGES, ids=by_name)
    def test_math_survives_markdown(self, page):
        """Equations stand in blocks of their own, formulas within a line, and no escape of Markdown is in them."""
        assert "```math\n" in section(page, "Method")
        prose = re.sub(r"```.*?```|`[^`\n]*`", "", page.text, flags=re.DOTALL)
        assert "```" not in prose
        for line in prose.splitlines():
            *pairs, _ = re.split(r"\$", line)
            assert len(pairs) % 2 == 0, line
            assert not [formula for formula in pairs[1::2] if re.search(r"\\[^a-zA-Z]", formula)], line


def method_classes() -> Iterable[tuple[str, str]]:
    """(paper, class) of everything that the common loop can train."""
    for paper in ("tfkd", "mtkd_rl", "mlkd"):
        for file in sorted((REPOSITORY / paper).glob("*.py")):
            if re.search(r"^class \w+\((Method|MultiTeacher)\)", file.read_text(), re.MULTILINE):
                for value in vars(importlib.import_module(f"{paper}.{file.stem}")).values():
                    is_method = isinstance(value, type) and issubclass(value, Method)
                    if is_method and value.__module__.startswith(paper) and value.forward is not Method.forward:
                        yield paper, value.__name__


@pytest.mark.parametrize("method", sorted({*method_classes(), *(("edkd", kind) for kind in distiller_dict)}))
def test_every_method_has_a_page(method):
    assert page_of(*method)


def test_the_methods_are_found():
    assert {
        *(("tfkd", name) for name in ("Baseline", "Distillation", "LabelSmoothing", "Regularization")),
        *(("mtkd_rl", name) for name in ("Baseline", "Averaging", "MultiTeacherRL")),
        *(("mlkd", name) for name in ("MultiLevel", "FineTuning")),
    } <= set(method_classes())


def tiny_network() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, K))


def tiny_student() -> MultiResNetV2:
    return MultiResNetV2(K, layers=(1, 1, 1, 1), channels=(128, 128, 128, 128), hidden=4)


def rl(name: str) -> nn.Module:
    return create_model(name, K, family="mtkd_rl")


METHODS = {
    ("tfkd", "Baseline"): lambda: Baseline(tiny_network()),
    ("tfkd", "LabelSmoothing"): lambda: LabelSmoothing(tiny_network()),
    ("tfkd", "Regularization"): lambda: Regularization(tiny_network(), 0.5, 20, 1),
    ("tfkd", "Distillation"): lambda: Distillation(tiny_network(), tiny_network(), 0.5, 20),
    ("mtkd_rl", "Averaging"): lambda: Averaging(rl("resnet8"), {"wrn_16_1": rl("wrn_16_1")}, 32),
    ("mtkd_rl", "MultiTeacherRL"): lambda: MultiTeacherRL(
        rl("resnet8"), {"wrn_16_1": rl("wrn_16_1"), "resnet8": rl("resnet8")}, 32
    ),
    ("mlkd", "MultiLevel"): lambda: MultiLevel(tiny_student(), tiny_network(), MixupCutmix(K, 0, 0), 1, 10),
    ("mlkd", "FineTuning"): lambda: FineTuning(tiny_network(), MixupCutmix(K, 0, 0)),
}


@pytest.mark.parametrize("method", METHODS, ids="-".join)
def test_losses_and_figures_of_an_epoch_are_explained(method):
    torch.manual_seed(0)
    built = METHODS[method]()
    step = built(torch.randn(N, 3, 32, 32), torch.arange(N) % K, torch.arange(N), 1)
    logged = {f"train/{name}" for name in (*step.losses, *map(without_teacher, built.epoch_metrics()))}
    for page in page_of(*method):
        assert logged <= mentioned(page), page.file.name


@pytest.mark.parametrize("kind", distiller_dict)
def test_losses_of_distillers_are_explained(kind):
    torch.manual_seed(0)
    distiller = make_distiller(
        configuration(kind, SMALL.get(kind)), create_model("resnet8", K), create_model("resnet14", K), N
    ).train()
    drawn = {"index": torch.arange(N), "contrastive_index": torch.randint(0, N, (N, 9))}
    _, losses = distiller(image=torch.randn(N, 3, 32, 32), target=torch.arange(N) % K, epoch=1, **drawn)
    (page,) = page_of("edkd", kind)
    assert {f"train/{name}" for name in losses} <= mentioned(page)


def measured_runs() -> list[Path]:
    return sorted((REPOSITORY / "experiments" / "measured").rglob("metrics.jsonl"))


def test_every_metric_of_measured_runs_is_explained():
    """What real runs logged, the agent of MTKD-RL and validation splits included."""
    unexplained = set()
    for file in measured_runs():
        record = json.loads(file.with_name("run.json").read_text())
        settings = record["settings"]
        names = json.loads(file.read_text().partition("\n")[0])
        logged = set(map(without_teacher, names))
        for page in page_of(record["paper"], settings.get("method") or settings["DISTILLER.TYPE"]):
            unexplained |= {(page.file.name, name) for name in logged - mentioned(page)}
    assert measured_runs()
    assert not unexplained


KNOWN = {(run.paper, " ".join(run.command)) for run in load_plan()}


class TestCommands:
    @pytest.mark.parametrize("page", PAGES, ids=by_name)
    def test_commands_are_those_of_the_plan(self, page):
        block = re.search(r"```\n(.*?)```", section(page, "Command"), flags=re.DOTALL)[1]
        papers = {paper for paper, _ in page.methods}
        for line in block.splitlines():
            interpreter, *words = shlex.split(line)
            assert interpreter in ("python", "python3")
            assert papers & {paper for paper, command in KNOWN if command == " ".join(words)}, line

    def test_the_readme_of_tf_kd_has_every_published_command(self):
        text = (REPOSITORY / "tfkd" / "README.md").read_text()
        tables = [table for table in Sources.read().tables if table.paper == "tfkd"]
        wanted = {cell.command.partition(" && ")[2] for t in tables for cell in t.published_cells if cell.command}
        assert len(wanted) > 30
        assert not [command for command in wanted if f"{command}\n" not in text]

    def test_the_readme_of_tf_kd_trains_teachers_first(self):
        text = (REPOSITORY / "tfkd" / "README.md").read_text()
        place = {" ".join(run.command): text.find(f"python {' '.join(run.command)}\n") for run in load_plan()}
        command = {run.experiment: " ".join(run.command) for run in load_plan() if run.paper == "tfkd"}
        for run in load_plan():
            here = place[" ".join(run.command)]
            if run.paper == "tfkd" and here >= 0:
                assert all(0 <= place[command[needed]] < here for needed in run.depends_on), run.experiment


@pytest.mark.parametrize("page", [p for p in PAGES if p.methods[0][0] == "edkd"], ids=by_name)
def test_hyperparameters_are_the_defaults(page):
    rows = re.findall(r"^\| `([A-Z_.0-9]+)` \| (.*?) \|", section(page, "Hyperparameters"), flags=re.MULTILINE)
    defaults = dict(CFG.leaves())
    assert rows
    assert dict(rows) == {key: str(defaults[key]) for key, _ in rows}


@pytest.mark.parametrize("kind", [kind for kind in distiller_dict if kind != "NONE"])
def test_no_hyperparameter_is_left_out(kind):
    (page,) = page_of("edkd", kind)
    named = set(re.findall(r"^\| `([A-Z_.0-9]+)` \|", section(page, "Hyperparameters"), flags=re.MULTILINE))
    assert {key for key in dict(CFG.leaves()) if key.startswith(f"{kind}.")} <= named
