"""How much of each run to train, and on which data (`experiments/budgets.json`)."""

from __future__ import annotations

import dataclasses
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.field_types import require_field_types
from common.results.reported import EXPERIMENTS
from common.safe_json import of_its_shape, read_json_file


@dataclasses.dataclass(frozen=True)
class Budget:
    """A budget. Its patterns are compared with "<paper> <script> <experiment>".

    Attributes:
        name, description: for people.
        generated: on the synthetic dataset instead of the real data.
        folder: of the synthetic datasets, below the directory of datasets.
        images: dataset -> classes, and training and test images of each, where the synthetic one has other numbers than
            by default.
        keep_networks: False deletes the networks of finished runs as soon as no other run needs them.
        jobs: how many runs at a time, unless the command line says it.
        seeds: which seeds, unless the command line says it.
        compared_seeds: where given, more than `seeds` for runs that tables show: as many as the published figure is the
            mean of, and at least this many where a table compares methods (`common/plan/seeds.py`).
        flags: pattern -> flags that the commands get, one pattern's after another's.
        params: pattern -> keys of `params.json` to override; later patterns win.
        leaves_out: pattern -> why its runs are left out, unless a table or a cell of theirs is asked for.
    """

    name: str
    description: str
    generated: bool
    folder: str = "generated"
    images: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    keep_networks: bool = True
    jobs: int = 1
    seeds: tuple[int, ...] = (0,)
    compared_seeds: int | None = None
    flags: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    params: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    leaves_out: dict[str, str] = dataclasses.field(default_factory=dict)

    def flags_of(self, run: str) -> list[str]:
        """The flags that this budget gives to a run, named as its patterns want it."""
        return [flag for pattern, flags in self.flags.items() if fnmatchcase(run, pattern) for flag in flags]

    def overrides(self, run: str) -> dict[str, Any]:
        """The keys of `params.json` that this budget sets for a run."""
        matching = [keys for pattern, keys in self.params.items() if fnmatchcase(run, pattern)]
        return {key: value for keys in matching for key, value in keys.items()}


def load_budget(name: str, experiments: Path = EXPERIMENTS) -> Budget:
    """The budget `name`.

    Raises:
        UserError: there is none of that name; lists those that there are.
    """
    budgets = read_json_file(file := experiments / "budgets.json")
    with of_its_shape(file, "list of budgets"):
        if name not in (known := list(budgets.keys())):
            raise UserError(f"no budget '{name}': give one of {', '.join(known)}")
    try:
        content = dict(budgets[name])
        data = content.pop("data")
        if data not in ("published", "generated"):
            raise UserError(f"{file}: the data of '{name}' is '{data}', not published or generated")
        budget = Budget(name, generated=data == "generated", **{**content, "seeds": tuple(content.get("seeds", (0,)))})
        require_field_types(budget)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: '{name}' is no budget ({error})") from error
    return budget
