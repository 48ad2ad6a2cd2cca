"""One process at a time in the folder of a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openmm_les.exceptions import RunError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]


@contextmanager
def sole_process(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for it, too, out of an existing folder; it is free when this one ends.

    File systems without locks let everyone in.

    Raises
    ------
    RunError
        Another process is in it.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"another process runs in {folder}: wait for its end, or stop it") from error
        except OSError:
            pass
        yield
    finally:
        os.close(handle)


__all__ = ["sole_process"]
