"""MACE and MACE-LES checkpoints as `LESModel`."""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path
from typing import Any, Dict, Optional, Tuple, Union

import numpy as np
import torch

from openmm_les.electrostatics import LatentCoulomb
from openmm_les.exceptions import CheckpointError
from openmm_les.models.adapters.mace import MACEBackbone, MACEChargeHead
from openmm_les.models.adapters.mace_harvest import Harvest, MACEHarvester
from openmm_les.models.adapters.probes import charge_sign, probe_box
from openmm_les.models.adapters.unpickle import PickledModule, Record
from openmm_les.models.heads import NoCharges
from openmm_les.models.model import LESModel

logger = logging.getLogger(__name__)

_KINDS = ("MACELES", "ScaleShiftMACE", "MACE")
# Terms of published weights, by file name or class; a file itself says nothing about its licence.
_LICENSES = (
    (r"mace.?(off|omat|matpes)", "ASL (Academic Software License: non-commercial)"),
    (r"mace.?les", "CC-BY-NC-4.0 (non-commercial) where it is one of those published with the LES papers"),
)
_UNKNOWN = "not stated in the file; ask where it comes from"


def convert_mace(
    path: Union[str, Path],
    *,
    head: Optional[str] = None,
    license: Optional[str] = None,
) -> LESModel:
    """Model from a MACE or MACE-LES checkpoint; nothing that stands in the file is run.

    Weights are in double, so that normalisation factors folded into them cost no digit. The periodic
    sum ends at ``|k| = 2π/dl``, as in the original; see `make_converged`.

    Parameters
    ----------
    path : file that mace saved (``torch.save`` of the module)
    head : of a model with several
    license : terms of the weights; None: by what is known of published ones

    Raises
    ------
    CheckpointError
        The file is damaged or hostile, no MACE, or has a part that cannot be rebuilt.
    """
    file = PickledModule(path)
    kind = getattr(file.root, "kind", type(file.root).__name__)
    if not isinstance(file.root, Record) or kind.rpartition(".")[2] not in _KINDS:
        known = ", ".join(_KINDS)
        raise CheckpointError(f"{file.path} holds a {kind}; the models that can be rebuilt are {known}")
    harvester = MACEHarvester(file, head)
    harvest = harvester.harvest()
    solver, conditions = _coulomb(harvester)
    model = _assemble(harvest, solver, file)
    model.metadata = {
        "name": file.path.stem,
        "source": f"{file.path.name}, {kind}",
        "license": license or _license(file.path.name, kind),
        "head": harvest.head,
        "level_of_theory": "as of the source",
    }
    if harvest.charges is not None:
        sign, notes = charge_sign(model)
        model.charge_scale = sign
        model.metadata["charge_sign"] = notes
        if notes["ambiguous"]:
            logger.warning("%s: the sign of the latent charges is ambiguous: %s", file.path.name, notes)
        model.metadata["electrostatics"] = {"sum": "sharp", **conditions}
    return model.eval()


def make_converged(model: LESModel) -> None:
    """Complete a model's periodic sum in place; its metadata and the log tell the difference made.

    The difference is measured in a box of small molecules at the density of a liquid. A model whose
    sum is complete already is left as it is.
    """
    sharp = model.electrostatics
    if sharp.k_cutoff is None:
        return
    before = _on_probe(model)
    model.electrostatics = LatentCoulomb(**{**sharp.config(), "k_cutoff": None})
    if model.sources is not None:
        model.sources.electrostatics = model.electrostatics
    after = _on_probe(model)
    record = {**model.metadata.get("electrostatics", {}), "sum": "converged", "was_cut_at": sharp.k_cutoff}
    if before is not None and after is not None:
        atoms = len(before[1])
        record["energy_difference_meV_per_atom"] = 1e3 * (after[0] - before[0]) / atoms
        record["force_difference_rms_meV_per_A"] = 1e3 * float(np.sqrt(np.mean((after[1] - before[1]) ** 2)))
        logger.info(
            "complete sum instead of |k| <= %.4g 1/Å: %+.3g meV/atom, %.3g meV/Å (rms) in a box of %d atoms",
            sharp.k_cutoff,
            record["energy_difference_meV_per_atom"],
            record["force_difference_rms_meV_per_A"],
            atoms,
        )
    model.metadata = {**model.metadata, "electrostatics": record}


def _on_probe(model: LESModel) -> Optional[Tuple[float, np.ndarray]]:
    box = probe_box(model)
    if box is None:
        return None
    numbers, positions, cell, molecules = box
    result = model.evaluate(
        positions, numbers, cell, total_charge=[0.0] * (int(molecules.max()) + 1), molecules=molecules
    )
    return result.energy, result.forces


def _coulomb(harvester: MACEHarvester) -> Tuple[LatentCoulomb, Dict[str, Any]]:
    """Coulomb sum with the constants that stand in the file, and these constants."""
    les = harvester.root.get("les")
    if les is None:
        return LatentCoulomb(), {}
    ewald = harvester.part(les, "ewald")
    values = {}
    for name in ("sigma", "dl", "norm_factor", "remove_self_interaction"):
        values[name] = harvester.value(harvester.part(ewald, name))
    # norm_factor is 2π ke.
    solver = LatentCoulomb(
        smearing=values["sigma"],
        coulomb_constant=values["norm_factor"] / (2.0 * math.pi),
        k_cutoff=2.0 * math.pi / values["dl"],
        self_interaction=not values["remove_self_interaction"],
    )
    return solver, values


def _assemble(harvest: Harvest, solver: LatentCoulomb, file: PickledModule) -> LESModel:
    try:
        backbone = MACEBackbone(**harvest.backbone).double()
        backbone.load_state_dict(harvest.backbone_weights)
        charge_head: torch.nn.Module = NoCharges()
        if harvest.charges is not None:
            charge_head = MACEChargeHead(harvest.backbone["n_channels"], harvest.charges).double()
            charge_head.load_state_dict(harvest.charge_weights)
    except (RuntimeError, ValueError, IndexError) as error:
        raise CheckpointError(f"the parts of {file.path} do not fit together: {error}") from error
    elements = harvest.backbone["elements"]
    return LESModel(backbone, charge_head, solver, elements, harvest.reference_energies).double()


def _license(name: str, kind: str) -> str:
    """What is known about the terms of published weights with this name."""
    for pattern, terms in _LICENSES:
        if re.search(pattern, f"{name} {kind.rpartition('.')[2]}", re.IGNORECASE):
            return terms
    return _UNKNOWN


__all__ = ["convert_mace", "make_converged"]
