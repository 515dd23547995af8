"""Classes in people's own files: how they are imported, told apart, and blamed."""

import shutil
import subprocess
import sys

import pytest

from common import own_code
from common.errors import TrainingError, UserError
from common.own_code import OwnCodeError, construct, error_in, failures_told, has_changed, load_class, provenance

BASE = Exception  # any class will do


@pytest.fixture
def load(tmp_path):
    """Loads `Mine` from a file of the given text; the same file is another one in each test."""
    before, path = set(sys.modules), list(sys.path)

    def from_text(text: str, name: str = "mine.py", **beside: str):
        for module, content in beside.items():
            (tmp_path / f"{module}.py").write_text(content)
        (tmp_path / name).write_text(text)
        return load_class(f"{tmp_path / name}:Mine", "--method", BASE, "tfkd")

    yield from_text
    sys.path[:] = path
    for module in set(sys.modules) - before:
        del sys.modules[module]


MINE = "class Mine(Exception):\n    def __init__(self):\n        self.value = {}\n"


class TestImport:
    @pytest.mark.parametrize("name", ["mine.py", "my-method.py", "my.method.v2.py", "2nd.py"])
    def test_by_any_name(self, name, load):
        assert load(MINE.format(3), name)().value == 3
        assert load(MINE.format(3), name) is load(MINE.format(3), name)

    @pytest.mark.parametrize("statement", ["from helpers import V", "from .helpers import V", "import helpers; V = 7"])
    def test_modules_beside_it(self, statement, load):
        assert load(f"{statement}\n{MINE.format('V')}", helpers="V = 7")().value == 7

    def test_modules_beside_it_when_it_runs(self, load):
        kind = load(MINE.format("0") + "        import late\n        self.value = late.V", late="V = 7")
        assert kind().value == 7

    def test_names_beside_it_come_before_the_paper_s(self, load, monkeypatch):
        """Scripts of a paper lie beside modules such as `losses`, which nobody's file means."""
        monkeypatch.syspath_prepend(str(own_code.REPOSITORY / "tfkd"))
        assert load(f"from losses import V\n{MINE.format('V')}", losses="V = 7")().value == 7

    @pytest.mark.parametrize(
        ("text", "name", "message"),
        [
            (MINE, "notes.txt", "notes.txt is no Python file"),
            ("import nothing_like_this", "mine.py", r"ModuleNotFoundError: .*/mine.py:1, in <module>"),
            ("import broken", "mine.py", r"ZeroDivisionError: division by zero \(.*/broken.py:2, in <module>"),
            ("\n\ndef f(:", "mine.py", r"SyntaxError: invalid syntax \(.*/mine.py:3\)"),
            ("import sys\nsys.exit(3)", "mine.py", r"SystemExit: 3 \(.*/mine.py:2"),
            (
                "import argparse\nargparse.ArgumentParser().parse_args(['x'])",
                "mine.py",
                r"SystemExit: 2 \(.*/mine.py:2",
            ),
            ("Mine = 3", "mine.py", "has no class 'Mine' derived from builtins.Exception: its classes are none"),
            ("class Mine: pass\nclass Two: pass", "mine.py", "its classes are Mine, Two"),
        ],
    )
    def test_what_cannot_be(self, text, name, message, load):
        with pytest.raises(UserError, match=message) as error:
            load(text, name, broken="\nx = 1 / 0")
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("source", ["", ":", "Mine", "nowhere.py:Mine", "nowhere.py"])
    def test_what_is_no_file(self, source):
        with pytest.raises(UserError, match=r"--method .*give FILE.py:CLASS"):
            load_class(source, "--method", BASE, "tfkd")


class TestProvenance:
    TEXT = "from helpers import V\n" + MINE.format("V")

    def version(self, load, text: str = TEXT, helpers: str = "from deeper import V", deeper: str = "V = 7"):
        for name in [name for name in sys.modules if name.startswith("own_code.") or name in ("helpers", "deeper")]:
            del sys.modules[name]
        return provenance(load(text, helpers=helpers, deeper=deeper, unrelated="V = 1"))

    def test_all_own_files_count_and_no_other(self, load, tmp_path):
        settings, details = self.version(load)
        files = {str(tmp_path / f"{name}.py") for name in ("mine", "helpers", "deeper")}
        assert set(details["own_files"]) == files
        assert settings == self.version(load)[0]
        others = [
            self.version(load, self.TEXT.replace("value", "figure")),
            self.version(load, helpers="from deeper import V  # again"),
            self.version(load, deeper="V = 8"),
        ]
        assert len({settings["own_code"], *(other["own_code"] for other, _ in others)}) == 4

    def test_what_is_imported_later_counts(self, load, tmp_path):
        _, details = provenance(load(MINE.format(0) + "        import late", late="V = 7"))
        assert str(tmp_path / "late.py") in details["own_files"]

    @pytest.mark.parametrize(
        ("statement", "files"),
        [
            ("from mypkg import C", ["mypkg/__init__"]),
            ("import mypkg.sub.deep", ["mypkg/__init__", "mypkg/sub/__init__", "mypkg/sub/deep", "mypkg/up", "late"]),
            (
                "from mypkg.sub import deep",
                ["mypkg/__init__", "mypkg/sub/__init__", "mypkg/sub/deep", "mypkg/up", "late"],
            ),
            (
                "from .mypkg.sub import deep",
                ["mypkg/__init__", "mypkg/sub/__init__", "mypkg/sub/deep", "mypkg/up", "late"],
            ),
            ("from .mypkg import up", ["mypkg/__init__", "mypkg/up"]),
            ("import importlib; importlib.import_module('late')", ["late"]),
            ("import importlib; importlib.import_module(name='late')", ["late"]),
            ("from importlib import import_module; import_module('.mypkg.up', 'x')", ["mypkg/__init__", "mypkg/up"]),
            ("__import__('mypkg.up')", ["mypkg/__init__", "mypkg/up"]),
            ("__import__('late' + 'r'); __import__('/late'); __import__('late\\0'); __import__('x' * 2)", []),
            (f"__import__('{'x' * 300}'); __import__('.'); __import__(''); __import__()", []),
            ("import broken", ["broken"]),
        ],
    )
    def test_packages_and_names_in_calls_count(self, statement, files, load, tmp_path):
        texts = {"__init__": "C = 1", "up": "", "sub/__init__": "", "sub/deep": "from ..up import C\nimport late"}
        for name, text in texts.items():
            (tmp_path / f"mypkg/{name}.py").parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / f"mypkg/{name}.py").write_text(text)
        text = MINE.format(0) + f"        {statement}\n"
        _, details = provenance(load(text, late="V = 7", broken="def f(:", other=""))
        assert set(details["own_files"]) == {str(tmp_path / f"{name}.py") for name in ("mine", *files)}

    def test_wherever_they_lie(self, load, tmp_path):
        settings, _ = self.version(load)
        shutil.copytree(tmp_path, tmp_path / "elsewhere")
        for name in ("helpers", "deeper"):
            del sys.modules[name]
        moved = load_class(f"{tmp_path / 'elsewhere/mine.py'}:Mine", "--method", BASE, "tfkd")
        assert provenance(moved)[0] == settings

    def test_a_record_s_files_may_have_changed(self, load, tmp_path):
        _, details = self.version(load)
        assert not has_changed(details)
        (tmp_path / "deeper.py").write_text("V = 9")
        assert has_changed(details)
        assert not has_changed({})
        assert not has_changed({"own_files": ["mine.py"]})
        assert has_changed({"own_files": {"x" * 300: "0"}}), "what cannot be looked at"

    def test_a_configuration_is_listed_and_no_setting(self, load, tmp_path):
        settings, _ = self.version(load)
        own = tmp_path / "own.yaml"
        own.write_text("A: 1")
        with_it = provenance(load(self.TEXT), own)
        assert with_it[0] == settings
        assert str(own) in with_it[1]["own_files"]
        nothing, details = provenance(None, own)
        assert (nothing, list(details["own_files"])) == ({}, [str(own)])
        own.write_text("A: 2")
        assert has_changed(details)

    def test_what_the_commit_says_is_not_said_again(self, tmp_path, monkeypatch, load):
        git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
        (tmp_path / "mine.py").write_text(MINE.format(3))
        for words in (["init", "-q"], ["add", "mine.py"], ["commit", "-q", "-m", "x"]):
            subprocess.run([*git, *words], check=True)
        monkeypatch.setattr(own_code, "REPOSITORY", tmp_path)
        own_code._committed.cache_clear()
        try:
            kind = load(MINE.format(3))
            assert provenance(kind) == ({}, {})
            (tmp_path / "mine.py").write_text(MINE.format(4))
            assert list(provenance(kind)[1]["own_files"]) == [str(tmp_path / "mine.py")]
        finally:
            own_code._committed.cache_clear()


class TestBlame:
    FAILS = MINE.format(0) + "\n    def work(self):\n        return self.value / self.value\n"

    def test_a_constructor(self, load):
        with pytest.raises(OwnCodeError, match=r"error in the code of x: TypeError: .*/mine.py:1, class Mine\)"):
            construct("x", load(MINE.format(0)), 1, 2, 3)
        with pytest.raises(OwnCodeError, match=r"NameError: name 'V' .*/two.py:3, in __init__\)"):
            construct("x", load(MINE.format("V"), "two.py"))

    def test_in_training(self, load, tmp_path):
        kind, log = load(self.FAILS), tmp_path / "run" / "train.log"
        with (
            pytest.raises(
                TrainingError, match=r"ZeroDivisionError: .*/mine.py:6, in work\) \(traceback in .*train.log"
            ),
            failures_told(lambda error: error_in("x", kind, error), log, is_main=True),
        ):
            kind().work()
        assert "Traceback (most recent call last)" in log.read_text()

    def test_what_is_not_theirs_passes(self, load, tmp_path):
        for error in (MemoryError(), UserError("a"), OSError("full")):
            with pytest.raises(type(error)), failures_told(lambda _: None, tmp_path / "log", is_main=True):
                raise error
        with pytest.raises(KeyError), failures_told(lambda _: None, tmp_path / "log", is_main=True):
            raise KeyError("ours")
        assert not (tmp_path / "log").exists()
