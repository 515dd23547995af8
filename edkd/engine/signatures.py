"""What a distiller's signatures ask for."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from common.errors import UserError

NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclasses.dataclass(frozen=True)
class Keywords:
    """What a function can be called with by name.

    Attributes:
        names: named parameters.
        required: those without a default.
        any_other: whether it takes `**kwargs`.
    """

    names: tuple[str, ...]
    required: frozenset[str]
    any_other: bool

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
    parameters = inspect.signature(function).parameters.values()
    named = [parameter for parameter in parameters if parameter.kind in NAMED]
    return Keywords(
        tuple(parameter.name for parameter in named),
        frozenset(parameter.name for parameter in named if parameter.default is parameter.empty),
        any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters),
    )


def training_keywords(distiller: nn.Module) -> Keywords:
    """What a distiller wants of a batch: the signature of `forward_train`, or of a `forward` that names something."""
    forward = keywords_of(distiller.forward)
    train = getattr(distiller, "forward_train", None)
    return forward if forward.names or train is None else keywords_of(train)


def construct(
    kind: type[nn.Module], student: nn.Module, teachers: Sequence[nn.Module], cfg: Any, train_images: int
) -> nn.Module:
    """`kind(student, teacher, cfg)`, with `num_data` for those who ask for it by name.

    Several teachers are handed over as one `nn.ModuleList`, or one by one where the signature has a place for each
    between the student and `cfg`.

    Args:
        kind: class of a distiller.
        student, teachers: networks as distillers see them.
        cfg: configuration.
        train_images: size of the training set.

    Raises:
        UserError: more than these is asked for.
    """
    keywords = keywords_of(kind)
    places = keywords.names.index("cfg") - 1 if "cfg" in keywords.names else 1
    one_by_one = len(teachers) == 1 or places == len(teachers)
    given = [student, *(teachers if one_by_one else [nn.ModuleList(teachers)]), cfg]
    more = {"num_data": train_images} if "num_data" in keywords.names else {}
    if unknown := [name for name in keywords.names[len(given) :] if name in keywords.required - more.keys()]:
        raise UserError(
            f"{kind.__name__}({', '.join(keywords.names)}) asks for {', '.join(unknown)}: distillers are made from "
            "(student, teacher, cfg), and num_data where they name it"
        )
    return kind(*given, **more)
