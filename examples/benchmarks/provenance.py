"""What every benchmark result says about where it came from."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("openmm-les", "torch", "openmm", "openmmtorch", "openmmml", "torch-pme", "mlipops")


def device_name() -> str:
    """Name of the GPU, or of the processor where there is none."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.split(':', 1)[1].strip()}, {os.cpu_count()} cores"
    return platform.processor() or platform.machine()


def provenance() -> dict[str, Any]:
    """Commit, device, threads and versions of this run."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return {
        "commit": commit.stdout.strip() or "unknown",
        "device": device_name(),
        "threads": torch.get_num_threads(),
        "versions": versions,
    }


def write_result(name: str, result: dict[str, Any]) -> Path:
    """Write a result and its provenance to ``results/<name>.json``."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({**provenance(), **result}, indent=2) + "\n")
    return path
