"""Latent Ewald summation for OpenMM: machine-learning potentials with long-range electrostatics.

Names are imported when first used: ``import openmm_les`` itself is cheap and needs no OpenMM.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import Any

_HOMES = {
    "CouplingSettings": "openmm_les.engine.embedded",
    "LESModel": "openmm_les.models.model",
    "MixedEnergies": "openmm_les.embedding.report",
    "MixedEnergyReporter": "openmm_les.embedding.report",
    "create_mixed_system": "openmm_les.embedding.mixed",
    "create_system": "openmm_les.engine.system",
    "energies_at": "openmm_les.embedding.states",
    "latent_ewald": "openmm_les.electrostatics",
    "list_models": "openmm_les.models.checkpoint",
    "load_model": "openmm_les.models.checkpoint",
}

__version__ = version("openmm-les")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])


__all__ = [
    "CouplingSettings",
    "LESModel",
    "MixedEnergies",
    "MixedEnergyReporter",
    "__version__",
    "create_mixed_system",
    "create_system",
    "energies_at",
    "latent_ewald",
    "list_models",
    "load_model",
]
