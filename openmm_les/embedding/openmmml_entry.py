"""What openmm-ml loads at its import, for every name that starts with "les".

openmm-ml creates all registered factories whenever it is imported, whoever uses it. This module
therefore imports nothing but the standard library, and registering can only look at a folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

PREFIX = "les"
_PRETRAINED = Path(__file__).parents[1] / "models" / "pretrained"


class LESPotentialImplFactory:
    """Makes `MLPotential("les", modelPath=…)` and `MLPotential("les-…")` for each shipped model.

    Not a subclass of openmm-ml's factory: openmm-ml would have to be imported while it is importing
    this module.
    """

    def __init__(self) -> None:
        import sys

        # The entry point names "les" only; the shipped models, whichever they are, join it here.
        registry = getattr(sys.modules.get("openmmml.mlpotential"), "MLPotential", None)
        if registry is not None and _PRETRAINED.is_dir():
            for folder in sorted(_PRETRAINED.iterdir()):
                if folder.is_dir():
                    registry.registerImplFactory(f"{PREFIX}-{folder.name}", self)

    def createImpl(self, name: str, **args: Any) -> Any:
        """Implementation of the potential ``name``; see `openmmml_potential.LESPotentialImpl`."""
        from openmm_les.embedding.openmmml_potential import LESPotentialImpl

        return LESPotentialImpl.from_name(name, **args)


__all__ = ["PREFIX", "LESPotentialImplFactory"]
