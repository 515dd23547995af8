"""What a distiller's signatures ask for."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from common.errors import UserError
from edkd.distillers._base import StudentTraining

NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclasses.dataclass(frozen=True)
class Keywords:
    """What a function can be called with by name.

    Attributes:
        names: named parameters.
        required: those without a default.
        any_other: whether it takes `**kwargs`.
        takes_more: whether it takes `*args`.
    """

    names: tuple[str, ...]
    required: frozenset[str]
    any_other: bool
    takes_more: bool = False

    def choose(self, usual: Mapping[str, Any], on_request: Mapping[str, Any]) -> dict[str, Any]:
        """What to call the function with.

        Args:
            usual: handed to whoever can take it.
            on_request: handed to those that name it.
        """
        taken = usual if self.any_other else {name: usual[name] for name in self.names if name in usual}
        return {**taken, **{name: on_request[name] for name in self.names if name in on_request}}


def keywords_of(function: Callable) -> Keywords:
    """What `function`, a bound method or a class, takes by name."""
    parameters = list(inspect.signature(function).parameters.values())
    named = [parameter for parameter in parameters if parameter.kind in NAMED]
    return Keywords(
        tuple(parameter.name for parameter in named),
        frozenset(parameter.name for parameter in named if parameter.default is parameter.empty),
        any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters),
        any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters),
    )


def training_keywords(distiller: nn.Module) -> Keywords:
    """What a distiller wants of a batch: the signature of `forward_train`, or of a `forward` that names something."""
    forward = keywords_of(distiller.forward)
    train = getattr(distiller, "forward_train", None)
    return forward if forward.names or train is None else keywords_of(train)


def learnable_parameters(distiller: StudentTraining) -> list[nn.Parameter]:
    """What `get_learnable_parameters` names, out of its groups and pairs with names.

    Raises:
        UserError: something else, or groups with more of their own than a learning rate, which the schedule sets.
    """
    called, found = f"{type(distiller).__name__}.get_learnable_parameters()", []
    for entry in distiller.get_learnable_parameters():
        for member in _members(entry, called):
            parameter = member[1] if isinstance(member, tuple) and len(member) == 2 else member
            if not isinstance(parameter, Tensor):
                raise UserError(f"{called} has a {type(parameter).__name__} in it, not a parameter")
            found.append(parameter)
    return found


def _members(entry: Any, called: str) -> Iterable[Any]:
    """What is in a group; an entry that is none is alone."""
    if not isinstance(entry, Mapping):
        return [entry]
    if own := sorted(entry.keys() - {"params", "lr", "name"}):
        raise UserError(f"{called} has a group with a {', '.join(own)} of its own: the optimizer of SOLVER has none")
    members = entry["params"]
    return [members] if isinstance(members, Tensor) else members


def extra_parameters(distiller: nn.Module) -> int | float | str | None:
    """What `get_extra_parameters` says, as a record can hold it: of parameters how many numbers they are."""
    given = getattr(distiller, "get_extra_parameters", lambda: 0)()
    leaves = list(given.parameters()) if isinstance(given, nn.Module) else tree_leaves(given)
    if leaves and all(isinstance(leaf, nn.Parameter) for leaf in leaves):
        return sum(leaf.numel() for leaf in leaves)
    if isinstance(given, Tensor | np.generic | np.ndarray) and math.prod(given.shape) == 1:
        return given.item()
    return given if given is None or isinstance(given, int | float | str) else str(given)[:200]


CONFIGURATION = ("cfg", "config", "opt", "args")  # what forks call it
TRAIN_IMAGES = ("num_data", "n_data")


def takes_teacher(kind: type[nn.Module]) -> bool:
    """Whether a distiller is made with a teacher: one that teaches itself may be made from `(student, cfg)`."""
    return keywords_of(kind).names[1:2] not in [(name,) for name in CONFIGURATION]


def construct(
    kind: type[StudentTraining],
    student: nn.Module,
    teachers: Sequence[nn.Module],
    cfg: Any,
    train_images: int,
    *,
    several: bool = False,
) -> StudentTraining:
    """`kind(student, teacher, cfg)`, without those that it does not take, with `num_data` where it asks for it by name.

    Several teachers are handed over as one `nn.ModuleList`, or one by one where the signature has a place for each
    between the student and the configuration.

    Args:
        kind: class of a distiller.
        student, teachers: networks as distillers see them.
        cfg: configuration.
        train_images: size of the training set.
        several: whether teachers are named as a list: one of one is handed over as such to whoever calls it `teachers`.

    Raises:
        UserError: more than these is asked for.
    """
    keywords = keywords_of(kind)
    named = [name for name in CONFIGURATION if name in keywords.names]
    places = keywords.names.index(named[0]) - 1 if named else 1
    wants_list = several and keywords.names[1:2] != () and keywords.names[1].endswith(("s", "list"))
    one_by_one = not wants_list if len(teachers) == 1 else len(teachers) == places
    given = [student, *(teachers if one_by_one else [nn.ModuleList(teachers)])]
    takes_cfg = named or keywords.takes_more or len(keywords.names) > len(given)
    given += [cfg] if takes_cfg else []
    more = dict.fromkeys([name for name in TRAIN_IMAGES if name in keywords.names], train_images)
    if unknown := [name for name in keywords.names[len(given) :] if name in keywords.required - more.keys()]:
        raise UserError(
            f"{kind.__name__}({', '.join(keywords.names)}) asks for {', '.join(unknown)}: distillers are made from "
            "(student, teacher, cfg), and num_data where they name it"
        )
    return kind(*given, **more)
