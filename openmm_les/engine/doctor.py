"""What is installed, what works, and what is wrong, for `openmm-les doctor`."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass

import openmm
import torch

from openmm_les.engine.routes import RouteStatus, available_routes, import_torchforce, installed_version
from openmm_les.exceptions import RouteError

PACKAGES = ("openmm-les", "torch", "openmm", "openmmtorch", "openmmml", "vesin-torch", "mdtraj", "numpy")


@dataclass(frozen=True)
class Diagnosis:
    """State of an installation."""

    python: str
    versions: dict[str, str | None]
    """By package; None = not installed"""
    routes: dict[str, RouteStatus]
    platforms: list[str]
    """OpenMM platforms, slowest first"""
    cuda_device: str | None
    """Name of the GPU that torch sees, or None"""
    problems: list[str]
    """One line each; empty if simulations can run"""


def diagnose() -> Diagnosis:
    """Look at the installed packages, the routes and the platforms."""
    routes = available_routes()
    problems = []
    if routes["torchforce"].available:
        try:
            import_torchforce()
        except RouteError as error:
            problems.append(str(error))
            routes["torchforce"] = RouteStatus("torchforce", False, str(error))
    if not any(status.available for status in routes.values()):
        problems += [f"route {status.name}: {status.reason}" for status in routes.values()]
    loaded = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
    # OpenCL is often absent, and the plugins of TorchForce are tried again by import_torchforce.
    failures = [t for t in openmm.Platform.getPluginLoadFailures() if not re.search("OpenCL|OpenMMTorch", t)]
    problems += [f"an OpenMM plugin does not load: {text}" for text in failures]
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    if cuda is not None and "CUDA" not in loaded:
        problems.append(
            f"torch sees {cuda}, but OpenMM has no CUDA platform: install openmm[cuda12] or [cuda13]"
        )
    return Diagnosis(
        python=platform.python_version(),
        versions={name: installed_version(name) for name in PACKAGES},
        routes=routes,
        platforms=loaded,
        cuda_device=cuda,
        problems=problems,
    )


__all__ = ["Diagnosis", "diagnose"]
