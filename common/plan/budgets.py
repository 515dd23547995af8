"""How much of each run to train, and on which data (`experiments/budgets.json`)."""

from __future__ import annotations

import dataclasses
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.results.reported import EXPERIMENTS, read_data


@dataclasses.dataclass(frozen=True)
class Budget:
    """A budget.

    Attributes:
        name, description: for people.
        generated: on the generated set instead of the real data.
        keep_networks: False deletes the networks of finished runs that no other run needs.
        jobs: how many runs at a time, unless the command line says it.
        seeds: which seeds, unless the command line says it.
        flags: paper -> flags that each of its commands gets.
        params: pattern of experiment -> keys of `params.json` to override; later patterns win.
    """

    name: str
    description: str
    generated: bool
    keep_networks: bool = True
    jobs: int = 1
    seeds: tuple[int, ...] = (0,)
    flags: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    params: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def overrides(self, experiment: str) -> dict[str, Any]:
        """The keys of `params.json` that this budget sets for an experiment."""
        matching = [keys for pattern, keys in self.params.items() if fnmatchcase(experiment, pattern)]
        return {key: value for keys in matching for key, value in keys.items()}


def load_budget(name: str, experiments: Path = EXPERIMENTS) -> Budget:
    """The budget `name`.

    Raises:
        UserError: there is none of that name; lists those that there are.
    """
    budgets = read_data(experiments / "budgets.json")
    if name not in budgets:
        raise UserError(f"no budget '{name}': give one of {', '.join(budgets)}")
    content = dict(budgets[name])
    data = content.pop("data")
    if data not in ("published", "generated"):
        raise UserError(f"{experiments / 'budgets.json'}: the data of '{name}' is '{data}', not published or generated")
    return Budget(name, generated=data == "generated", **{**content, "seeds": tuple(content.get("seeds", (0,)))})
