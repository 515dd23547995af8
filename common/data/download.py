"""Fetching published archives: progress, checksum, and nothing left behind that looks finished."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from pathlib import Path

from common.errors import UserError
from common.locks import LOCK, locked


def fetch_archive(url: str, md5: str, root: Path, folder: str, name: str, *, layout: str, download: bool) -> None:
    """Download an archive and unpack it to `root/folder`.

    Args:
        url, md5: of the archive.
        root: directory of datasets.
        folder: the directory that the archive holds.
        name: how people call the dataset.
        layout: of `common.data.synthetic` that can stand in for it.
        download: False only says what is missing.

    Raises:
        UserError: not allowed, offline, or a wrong checksum.
    """
    advice = (
        f"place the published {folder}/ there by hand (data/README.md says how), point --data-dir to it, "
        f"or write a generated stand-in with `python -m common.data.synthetic DEST --layout {layout}`"
    )
    if not download:
        raise UserError(f"{name} is not in {root}: {advice}")
    from torchvision.datasets.utils import download_url, extract_archive

    scratch = root / f".{folder}.unpacking"
    archive = url.rpartition("/")[2]
    patience = socket.getdefaulttimeout()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / LOCK):
            if (root / folder).is_dir():
                return  # another process has just fetched it
            socket.setdefaulttimeout(60)
            download_url(url, str(root), md5=md5)
            shutil.rmtree(scratch, ignore_errors=True)
            extract_archive(str(root / archive), str(scratch))
            os.replace(scratch / folder, root / folder)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            (root / LOCK).unlink()
            root.rmdir()  # where nothing else is in it
        reason = getattr(error, "reason", error)
        raise UserError(
            f"{name} is not in {root} and could not be downloaded from {url} ({reason}): {advice}"
        ) from error
    finally:
        socket.setdefaulttimeout(patience)
        shutil.rmtree(scratch, ignore_errors=True)
