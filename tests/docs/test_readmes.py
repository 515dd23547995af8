"""The READMEs' commands follow one another without an error, in one directory, from top to bottom."""

import json
import math
import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from benchmarks.overflow import losses
from common.command_line import REPOSITORY
from common.plan.datasets import ensure_dataset
from common.plan.plan import load_plan, select
from common.results.reported import load_tables
from tests.mlkd.checks import CONFIG
from tests.pages import BUDGET, LARGEST_LOSS, PAPERS, Command, commands, pages, write_small_settings
from tests.processes import Process, record

# "<page>: <command>" -> why it is not typed here
ELSEWHERE = {
    "*: pip* install *": "installs (tests/test_environment.py)",
    "edkd/README.md: python3 setup.py develop": "installs (tests/test_environment.py)",
    "README.md: ./run_tests.sh": "runs this test",
    "*README.md: ./run_all.sh --quick": "takes 10 minutes (tests/results/test_demonstration.py)",
    "README.md: ./run_all.sh --budget smoke": "what is here, and the rest of it in tests/plan/test_smoke.py",
    "README.md: ./run_all.sh": "weeks of GPUs; its commands are those here",
    "README.md: ./run_all.sh --sweep *": "has a placeholder (tests/plan/test_search.py)",
    "README.md: python -m common.results DIR ...": "has a placeholder (tests/results)",
    "README.md: python -m common.analyze STUDENT *": "has placeholders (tests/analysis/test_analyze.py)",
    "README.md: python -m common.teacher_cache list": "looks at this machine's files (tests/teacher_cache)",
    "tfkd/README.md: torchrun *": "has a placeholder (tests/training/test_distributed.py)",
    "edkd/README.md: *TheirKD*": "takes a reader's own file (tests/edkd/test_check_distiller.py)",
    "edkd/README.md: *theirkd*": "takes a reader's own file (tests/edkd/test_check_distiller.py)",
    "edkd/README.md: *mykd.yaml": "changes the repository; tests/edkd/test_custom_distiller.py does in a copy of it",
    "benchmarks/README.md: *": "measure for minutes to hours (tests/benchmarks runs them in miniature)",
    "experiments/README.md: python -m benchmarks.overflow *": "measures for hours (tests/benchmarks/test_overflow.py)",
    "data/README.md: python -m common.data.synthetic DEST": "has a placeholder; MLKD's page has the command",
    "docs/methods/README.md: python -m common.results.method_pages": "writes pages (tests/results)",
    "experiments/weights/README.md: *": "evaluates the real CIFAR-100 (tests/training/test_offered_weights.py)",
}
READMES = [str(page.relative_to(REPOSITORY)) for page in pages() if page.name == "README.md"]
SMOKE = {run.key for run in select(load_plan(), load_tables(), left_out=list(BUDGET.leaves_out))}


def reason(command: Command) -> str | None:
    """Why a command is not typed here; None if it is."""
    return next((why for rule, why in ELSEWHERE.items() if fnmatchcase(f"{command.page}: {command.text}", rule)), None)


def typed(page: str) -> list[Command]:
    return [command for command in commands(page) if reason(command) is None]


def test_every_command_is_typed_or_has_a_reason():
    pages_of_papers = {f"{paper}/README.md" for paper in PAPERS}
    for page in set(READMES) - pages_of_papers - {"README.md"}:
        assert not typed(page), f"{page} has commands that are neither typed here nor have a reason"
    first = [command.words for command in typed("README.md")]
    assert len(first) == len(PAPERS), "the table of the first page begins with a command of each paper"
    for page in pages_of_papers:
        assert sum(command.words in first for command in typed(page)) == 1
    for rule in ELSEWHERE:
        assert any(fnmatchcase(f"{c.page}: {c.text}", rule) for page in READMES for c in commands(page)), rule


@pytest.mark.parametrize("paper", PAPERS)
def test_smoke_has_all_but_what_measures_early_exits(paper):
    ours = (REPOSITORY / paper / "README.md").read_text().partition("\n## Early exits\n")[2]
    for command in typed(f"{paper}/README.md"):
        assert command.run.key in SMOKE if command.run else command.text in ours, command.text


@pytest.mark.slow
@pytest.mark.parametrize("paper", PAPERS)
def test_a_readme_is_followed_from_top_to_bottom(paper, tmp_path):
    page = f"{paper}/README.md"
    directory, data = tmp_path / paper, tmp_path / "data"
    directory.mkdir()
    for dataset in {command.run.dataset for command in typed(page) if command.run}:
        assert ensure_dataset(dataset, data, BUDGET) is None
    write_small_settings(typed(page), directory)
    for config in re.findall(r"```json\n(.*?)```", (REPOSITORY / page).read_text(), flags=re.DOTALL):
        (directory / "config.json").write_text(config)
    for command in typed(page):
        ended = Process(command.module, command.arguments(directory, data), directory).wait()
        assert ended.code == 0, f"{page}: {command.text}: {ended.stderr}"
    found = [loss for file in directory.rglob("metrics.jsonl") for loss in losses(file.parent)]
    assert all(math.isfinite(loss) and abs(loss) < LARGEST_LOSS for loss in found)
    assert found
    if paper == "mlkd":
        require_ensemble_of_the_page(directory)


def require_ensemble_of_the_page(directory: Path) -> None:
    """MLKD's student was taught by the page's ensemble, whose weights alone were calibrated after that."""
    models = directory / "models"
    assert {path.stem for path in models.glob("*.pth")} >= set(CONFIG["names"])
    teachers = record(models / "student_model")["settings"]["teachers"]
    assert [teacher["name"] for teacher in teachers] == CONFIG["models"]
    assert [teacher["weight"] for teacher in teachers] == CONFIG["weights"]
    log = (models / "student_model/train.log").read_text()
    assert "config.json: timm's names are those in 'models', checkpoints those in 'names'" in log
    for model, name in zip(CONFIG["models"], CONFIG["names"], strict=True):
        assert f"teacher {model} from {models / name}.pth" in log
    after = json.loads((directory / "config.json").read_text())
    assert {**after, "weights": None} == {**CONFIG, "weights": None}
    assert max(map(abs, after["weights"])) < 5**-0.5 + 0.002
