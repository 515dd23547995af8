"""mdistiller's tables of networks, for code that builds networks by their names."""

from __future__ import annotations

import functools
from collections.abc import Callable

from common.command_line import resolve_path
from common.models import Network, create_model
from edkd.distillers._base import student_view
from edkd.engine.experiment import PAPER, PREFIXES, model_names
from edkd.engine.teachers import PUBLISHED


def builders(*names: str) -> list[Callable[..., Network]]:
    """What builds each of these networks, by their names in the registry."""
    return [functools.partial(_build, name) for name in names]


def _build(name: str, num_classes: int = 100, **kwargs: bool) -> Network:
    """A network as distillers see it, with its initial weights; `pretrained`, which mdistiller has, must be false."""
    if any(kwargs.values()):
        raise ValueError(f"{name}: weights are loaded from a file here, not by {', '.join(kwargs)}")
    return student_view(create_model(name, num_classes, family="mdistiller"))


def _with_checkpoints(dataset: str) -> dict[str, tuple]:
    """Name -> (what builds it, its published checkpoint or None)."""
    table = {}
    for name in model_names(dataset):
        file = resolve_path(PUBLISHED[dataset].format(name=name), PAPER)
        table[name] = functools.partial(_build, PREFIXES[dataset] + name), str(file) if file.is_file() else None
    return table


cifar_model_dict = _with_checkpoints("cifar100")
tiny_imagenet_model_dict = _with_checkpoints("tiny_imagenet")
imagenet_model_dict = {
    name: functools.partial(_build, PREFIXES["imagenet"] + name, 1000) for name in model_names("imagenet")
}
