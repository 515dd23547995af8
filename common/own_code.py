"""People's own code: a class in a file that a flag or a key names. How it is imported, told apart and blamed."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import sysconfig
import traceback
import types
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from common.checkout import git
from common.command_line import REPOSITORY, resolve_path
from common.errors import TrainingError, UserError, is_out_of_memory
from common.files_read import files_noted, files_read

LONGEST = 400  # characters of somebody's message within ours
IMPORTING = ("import_module", "__import__")  # functions that are given a module's name
INSTALLED = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib"))


class OwnCodeError(UserError):
    """Somebody's code that fails, in one line.

    Attributes:
        details: the traceback, for a log; None where it would say nothing more.
    """

    def __init__(self, message: str, details: str | None) -> None:
        super().__init__(message)
        self.details = details


# ------------------------------------------------------------------------------------------------------------ importing


def load_class(
    source: str, option: str, base: type, paper: str, package_of: Callable[[Path], str] | None = None
) -> type:
    """The class of `FILE.py:CLASS`; a file is imported once.

    Modules beside the file are imported as a script beside them would (`import helpers`), or as its package's
    (`from .helpers import f`).

    Args:
        source: the file is looked for in the working directory, in the paper's and in the repository.
        option: flag or key that gave it, for messages.
        base: what the class must be derived from.
        paper: directory of the paper.
        package_of: names the package that the files of a directory are modules of.

    Raises:
        UserError: no such file or class, or a file that cannot be imported; with file and line of somebody's error.
    """
    name_of_file, _, name = source.rpartition(":")
    if not name_of_file or not name:
        raise UserError(f"{option} {source}: give FILE.py:CLASS, the file and the class in it")
    file = resolve_path(name_of_file, paper).resolve()
    if not file.is_file():
        raise UserError(f"{option} {source}: give FILE.py:CLASS; there is no file '{name_of_file}'")
    if file.suffix != ".py":
        raise UserError(f"{option} {source}: give FILE.py:CLASS; {file.name} is no Python file")
    module = _imported(file, (package_of or _anonymous_package)(file.parent))
    kind = getattr(module, name, None)
    if not (isinstance(kind, type) and issubclass(kind, base)):
        here = [k for k, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]
        wanted = f"{base.__module__}.{base.__qualname__}"
        raise UserError(
            f"{file} has no class '{name}' derived from {wanted}: its classes are {', '.join(here) or 'none'}"
        )
    return kind


def package_for(directory: Path, parent: str = "own_code") -> str:
    """A package, made where it is not there yet, whose modules are the files of a directory."""
    name = f"{parent}.files_{hashlib.sha256(str(directory).encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        package = types.ModuleType(name, f"Files in {directory}.")
        package.__path__ = [str(directory)]
        sys.modules[name] = package
    return name


def _anonymous_package(directory: Path) -> str:
    if "own_code" not in sys.modules:
        sys.modules["own_code"] = types.ModuleType("own_code", "Of people's own files.")
        sys.modules["own_code"].__path__ = []
    return package_for(directory)


def _imported(file: Path, package: str) -> types.ModuleType:
    try:
        with _importable_beside(file), files_noted(file):
            if file.stem.isidentifier():
                return importlib.import_module(f"{package}.{file.stem}")
            return _import_oddly_named(file, f"{package}.{re.sub(r'[^0-9a-zA-Z]', '_', file.stem)}")
    except (Exception, SystemExit) as error:  # whatever a file does when it is imported
        if is_out_of_memory(error):
            raise
        raise UserError(f"{file} cannot be imported: {in_words(error)} ({_place(error, file)})") from error


@contextlib.contextmanager
def _importable_beside(file: Path) -> Iterator[None]:
    """The file's directory is the first place of imports, as for a script in it; later on it is the last."""
    directory = str(file.parent)
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        sys.path.remove(directory)
        if directory not in sys.path:
            sys.path.append(directory)


def _import_oddly_named(file: Path, name: str) -> types.ModuleType:
    """Import `my-method.py`, which no import statement could name."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


# -------------------------------------------------------------------------------------------------------- telling apart


def provenance(kind: type | None, configuration: Path | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What settings and details of a record say about what the commit does not: nothing where it says all.

    Args:
        kind: somebody's class, where the run has one.
        configuration: the file that the run's settings come from. It is no setting itself: its values are.

    Returns:
        `own_code`, a digest of the class's code, by which runs are told apart; and `own_files`, that of each file.
    """
    code = {str(file): digest_of(file) for file in (own_files(kind) if kind else [])}
    files = dict(code)
    if configuration and not _is_known(configuration.resolve(), configuration.resolve()):
        files[str(configuration.resolve())] = digest_of(configuration)
    everything = " ".join(sorted(code.values()))  # wherever they lie and whatever they are called
    told_apart = {"own_code": hashlib.sha256(everything.encode()).hexdigest()[:16]} if code else {}
    return told_apart, {"own_files": files} if files else {}


def has_changed(details: dict[str, Any]) -> bool:
    """Whether a file of a record's `own_files` is no longer what the run was computed with."""
    files = details.get("own_files")
    return isinstance(files, dict) and any(_has_other_content(Path(file), digest) for file, digest in files.items())


def _has_other_content(file: Path, digest: str) -> bool:
    """Whether a file is there with another content, as far as can be known."""
    try:
        return file.is_file() and digest_of(file) != digest
    except OSError:
        return True


def digest_of(file: Path) -> str:
    """By which records know a file's content."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def own_files(kind: type) -> list[Path]:
    """The files that a class's code comes from, and that no commit and no installed package says.

    They are the file of the class and all that it imports, and what these import, also where they do so only later; and
    what they read, such as constants in JSON, until an object of the class is made.
    """
    found: set[Path] = set()
    waiting, own = list(_with_parents(kind.__module__)), Path(inspect.getfile(kind)).resolve()
    while waiting:
        file, package = waiting.pop()
        if file in found or _is_known(file, own):
            continue
        found.add(file)
        waiting += _imported_by(file, package, own.parent)
    for file, opener in files_read(own):
        if (file.is_relative_to(own.parent) or is_foreign(opener)) and not _is_known(file, own):
            found.add(file)
    return sorted(found)


def own_namespaces(kind: type) -> Iterator[tuple[str, types.ModuleType | type]]:
    """Name and object of somebody's modules that a class's code consists of, and of the classes in them."""
    own = Path(inspect.getfile(kind)).resolve()
    files = {file for file in own_files(kind) if _is_theirs(file, own, ())}
    for name, module in list(sys.modules.items()):
        if _file_of(name) in files and getattr(module, "__name__", None) == name:
            called = re.sub(r".*\.files_\w+\.", "", name)
            yield called, module
            classes = [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == name]
            yield from ((f"{called}.{one.__name__}", one) for one in classes)


def _file_of(name: str) -> Path | None:
    """The source of an imported module; None where there is none."""
    file = getattr(sys.modules.get(name), "__file__", None)
    return _resolved(file) if file and file.endswith(".py") else None


@functools.cache
def _resolved(file: str) -> Path:
    """A module's file without links: the same for as long as a process lives, which has imported thousands of them."""
    return Path(file).resolve()


def _with_parents(name: str) -> Iterator[tuple[Path, str]]:
    """File and package of an imported module and of those that it lies in."""
    parts = name.split(".")
    for module in (sys.modules.get(".".join(parts[:n])) for n in range(1, len(parts) + 1)):
        if module is not None and (file := _file_of(module.__name__)):
            yield file, module.__package__ or ""


def _imported_by(file: Path, package: str, top: Path) -> Iterator[tuple[Path, str]]:
    """File and package of the modules that a file may import: those that are imported, and others that lie beside it.

    Args:
        file: the source.
        package: that it belongs to.
        top: directory where names are looked for as well as beside the file.
    """
    for node in _nodes(file):
        for name, level in _names_in(node):
            above = package.rsplit(".", level - 1)[0] if level else ""
            yield from _with_parents(f"{above}.{name}" if above else name)
            for place in [file.parents[min(level, len(file.parents)) - 1]] if level else [file.parent, top]:
                yield from _not_yet_imported(place, above, name)


def _not_yet_imported(place: Path, package: str, name: str) -> Iterator[tuple[Path, str]]:
    """File and package of a module, and of those that it lies in, which are found below the directory of a package."""
    parts = name.split(".")
    if not all(parts) or "/" in name:
        return
    for count in range(1, len(parts) + 1):
        if ".".join(filter(None, [package, *parts[:count]])) in sys.modules:
            continue
        path = place.joinpath(*parts[:count])
        for file, within in ((path / "__init__.py", count), (path.with_name(f"{path.name}.py"), count - 1)):
            if os.path.isfile(file):
                yield file.resolve(), ".".join(filter(None, [package, *parts[:within]]))


def _nodes(file: Path) -> Iterator[ast.AST]:
    """All parts of a source; none of one that nobody has imported and that cannot be."""
    try:
        yield from ast.walk(ast.parse(file.read_bytes()))
    except (SyntaxError, ValueError, RecursionError):
        return


def _names_in(node: ast.AST) -> Iterator[tuple[str, int]]:
    """Names of the modules that a statement imports, or a call with a literal name, and the dots before each."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, 0) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        within = [node.module] if node.module else []
        yield from ((".".join([*within, *last]), node.level) for last in ([], *([each.name] for each in node.names)))
    elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in IMPORTING:
        given = [*node.args[:1], *(word.value for word in node.keywords if word.arg == "name")]
        if given and isinstance(given[0], ast.Constant) and isinstance(given[0].value, str):
            name = given[0].value.lstrip(".")
            yield name, len(given[0].value) - len(name)


def is_ours(kind: type) -> bool:
    """Whether a class is this repository's or a library's, not of a file that a flag names or of its neighbors."""
    file = _file_of(kind.__module__)
    return not kind.__module__.startswith("own_code.") and (file is None or not is_foreign(file))


def _is_known(file: Path, own: Path) -> bool:
    """Whether an installed package or the commit says what is in a file.

    Without a checkout the repository's files are taken for the commit's, but those beside a class of one's `own`, the
    file of which nobody has installed: a flag names it.
    """
    if _is_installed(file):
        return file != own
    if not file.is_relative_to(REPOSITORY):
        return False
    if not _committed():
        return file.parent != own.parent
    content = file.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return _committed().get(file.relative_to(REPOSITORY).as_posix()) == blob


@functools.cache
def _committed() -> dict[str, str]:
    """Path -> git's digest of its content in the commit; empty where there is no checkout."""
    try:
        listed = git(REPOSITORY, "ls-tree", "-r", "-z", "--full-tree", "HEAD")
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return {}
    entries = (line.partition("\t") for line in listed.split("\0") if line)
    return {path: mode_type_blob.split()[2] for mode_type_blob, _, path in entries}


# -------------------------------------------------------------------------------------------------------------- blaming


def in_words(error: BaseException) -> str:
    """Type and message of an exception, in one line."""
    try:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
    except Exception:  # somebody's class of errors, whose own text fails
        text = "(an error without a text)"
    return f"{type(error).__name__}: {' '.join(str(text).split())[:LONGEST]}"


def error_in(source: str, kind: type, error: BaseException) -> OwnCodeError:
    """What is said about an exception that somebody's class raised."""
    message = f"error in the code of {source}: {in_words(error)} ({place_of(error, kind)})"
    return OwnCodeError(message, "".join(traceback.format_exception(error)))


def making(kind: type) -> contextlib.AbstractContextManager:
    """Within it an object of somebody's class is made, and what that reads belongs to its code."""
    return contextlib.nullcontext() if is_ours(kind) else files_noted(Path(inspect.getfile(kind)).resolve())


def construct(source: str, kind: type, *networks: Any) -> Any:
    """An object of somebody's class.

    Raises:
        OwnCodeError: its constructor fails.
    """
    try:
        with making(kind):
            return kind(*networks)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever somebody else's code may raise
        if is_out_of_memory(error):
            raise
        raise error_in(source, kind, error) from error


def place_of(error: BaseException, kind: type) -> str:
    """File, line and function of somebody's code where an exception arose; its class where that was never entered."""
    if (own := _file_of(kind.__module__)) is None:
        return f"class {kind.__name__}"
    bases = {_file_of(base.__module__) for base in kind.__mro__[1:]} - {own}
    return _place(error, own, bases, _line_of(kind, own))


def _line_of(kind: type, file: Path) -> str:
    classes = [node for node in ast.walk(ast.parse(file.read_bytes())) if isinstance(node, ast.ClassDef)]
    return next((f":{node.lineno}, class {node.name}" for node in classes if node.name == kind.__name__), "")


def _place(error: BaseException, own: Path, bases: Collection[Path | None] = (), otherwise: str = "") -> str:
    if isinstance(error, SyntaxError) and error.filename and os.path.isfile(error.filename):
        return f"{shorter(error.filename)}:{error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_theirs(Path(f.filename), own, bases)]
    if not frames:
        return f"{shorter(own)}{otherwise}"
    return f"{shorter(frames[-1].filename)}:{frames[-1].lineno}, in {frames[-1].name}"


def _is_theirs(file: Path, own: Path, bases: Collection[Path | None]) -> bool:
    """Whether a file is somebody's: outside of repository and libraries, or beside that of their class."""
    beside = file.is_file() and file.resolve().parent == own.parent  # no file: `<string>`, what `exec` is given
    return is_foreign(file) or (beside and file.resolve() not in bases)


def _passes_foreign_code(error: BaseException) -> bool:
    return any(is_foreign(Path(frame.filename)) for frame in traceback.extract_tb(error.__traceback__))


def is_foreign(file: Path) -> bool:
    """Whether a file is neither of this repository nor of a library."""
    return file.is_file() and not _is_installed(file.resolve()) and not file.resolve().is_relative_to(REPOSITORY)


def _is_installed(file: Path) -> bool:
    return "site-packages" in file.parts or any(file.is_relative_to(place) for place in INSTALLED)


def shorter(file: str | Path) -> Path:
    """A path, relative to the repository where it lies in it."""
    file = Path(file).resolve()
    return file.relative_to(REPOSITORY) if file.is_relative_to(REPOSITORY) else file


@contextlib.contextmanager
def failures_told(
    explain: Callable[[BaseException], OwnCodeError | None], log: Path, *, is_main: bool
) -> Iterator[None]:
    """Where somebody's code fails, one line says where, and the run's log has the traceback.

    Args:
        explain: says it of what is raised in training, None where it is no fault of theirs; what is raised before is an
            `OwnCodeError` already.
        log: of the run.
        is_main: whether this process writes.

    Raises:
        UserError: in place of an `OwnCodeError`.
        TrainingError: in place of whatever else somebody's code may raise.
    """
    try:
        yield
    except OwnCodeError as error:
        if error.__cause__ is not None and is_out_of_memory(error.__cause__):
            raise error.__cause__ from None  # no fault of theirs
        raise UserError(f"{error}{_logged(error, log, is_main)}") from error
    except (UserError, TrainingError):
        raise
    except (Exception, SystemExit) as error:  # in training
        theirs = not isinstance(error, OSError | SystemExit) or _passes_foreign_code(error)
        if is_out_of_memory(error) or not theirs:  # a full disk, or an end as asked for
            raise
        if (explained := explain(error)) is None:
            raise
        raise TrainingError(f"{explained}{_logged(explained, log, is_main)}") from error


def _logged(error: OwnCodeError, log: Path, is_main: bool) -> str:
    """Append the traceback to the run's log; gives the end of the message."""
    if error.details is None or not is_main:
        return ""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(error.details)
    return f" (traceback in {log})"
