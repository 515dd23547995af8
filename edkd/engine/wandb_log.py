"""Weights & Biases, where its package and an account are there. Training never depends on it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import is_out_of_memory

LONGEST_NAME, LONGEST_TAG = 128, 64  # characters that W&B takes


def _logged_in(wandb: Any) -> bool:
    """Whether there is an account; nobody is asked."""
    try:
        return bool(wandb.login(prompt=False))
    except TypeError:  # a version from before that argument
        return bool(wandb.api.api_key)


class WandbLog:
    """Sends an epoch's figures to W&B; does nothing, after one warning, where that is not possible.

    Args:
        wanted: `LOG.WANDB`.
        project, name, tags: of the run there; what W&B cannot take of them is left out or shortened.
        key: tells this run from others, also when it is resumed: then it goes on there, too.
        config: the run's configuration.
        directory: where W&B keeps its files.
        warn: receives the one line that says why there is no W&B.
    """

    def __init__(
        self,
        wanted: bool,
        project: str,
        name: str,
        tags: list[str],
        key: str,
        config: dict[str, Any],
        directory: Path,
        warn: Callable[[str], None],
    ) -> None:
        self._run: Any = None  # of W&B's, while there is one
        self._warn = warn
        if not wanted:
            return
        try:
            import wandb  # pyright: ignore[reportMissingImports]  # as the case may be
        except ImportError:
            self._give_up("the package wandb is not installed (pip install wandb)")
            return
        except (Exception, SystemExit) as error:  # one that is broken
            self._give_up_after(error)
            return
        try:
            offline = wandb.setup().settings.mode in ("offline", "disabled", "dryrun")
            if not offline and not _logged_in(wandb):
                self._give_up("no account is logged in (wandb login, or WANDB_MODE=offline)")
                return
            self._run = wandb.init(
                project=project.replace("/", "_")[:LONGEST_NAME],
                name=name[:LONGEST_NAME],
                tags=list(dict.fromkeys(tag[:LONGEST_TAG] for tag in map(str.strip, tags) if tag)),
                id=hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:16],
                resume="allow",
                config=config,
                dir=str(directory),
            )
        except (Exception, SystemExit) as error:  # whatever it is, training goes on
            self._give_up_after(error)

    def _give_up_after(self, error: BaseException) -> None:
        if is_out_of_memory(error):
            raise error
        words = str(error).splitlines() or [""]
        self._give_up(f"it failed ({type(error).__name__}: {words[0]})")

    def _give_up(self, reason: str) -> None:
        self._run = None
        self._warn(f"warning: LOG.WANDB is on, but {reason}; TensorBoard has the curves (LOG.WANDB False is quiet)")

    def log(self, figures: dict[str, float], epoch: int) -> None:
        """Send one epoch, counted from 0; W&B drops one that it has already."""
        self._call(lambda: self._run.log(figures, step=epoch))

    def finish(self) -> None:
        """Close the run there."""
        self._call(lambda: self._run.finish())

    def _call(self, action: Callable[[], None]) -> None:
        if self._run is None:
            return
        try:
            action()
        except (Exception, SystemExit) as error:
            self._give_up_after(error)
