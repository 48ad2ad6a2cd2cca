"""Fixtures that tests of several parts use, and what must be so before any of them runs."""

from __future__ import annotations

import os
from pathlib import Path

# Small systems are quickest on one thread, and results then do not depend on the machine.
os.environ.setdefault("OPENMM_CPU_THREADS", "1")

import pytest
import torch
import vesin_torch  # noqa: F401  # before openmmtorch, or its TorchScript class is not found

torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the development data that is not part of the repository; skips where it is absent.

    Found by the environment variable OPENMM_LES_SHARED, or beside the repository.
    """
    root = Path(os.environ.get("OPENMM_LES_SHARED", ROOT.parent / "shared"))
    data = root / "data"
    if not data.is_dir():
        pytest.skip(f"development data are not at {data} (set OPENMM_LES_SHARED)")
    return data
