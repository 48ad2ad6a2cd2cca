"""Small known molecules that tell what the charges of an unknown model mean."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Tuple

import numpy as np
from ase import Atoms
from ase.build import molecule

from openmm_les.elements import PAULING_ELECTRONEGATIVITY, covalent_radii
from openmm_les.models.heads import starting_charge
from openmm_les.models.model import LESModel

_MOLECULES = (
    "H2O", "NH3", "CH3OH", "H2CO", "CH3CN", "CO2", "HF", "HCl", "CH3SH", "SO2", "CH3Cl", "SiH4", "PH3",
    "LiF", "NaCl",
)  # fmt: skip
_CLEAR = 0.5


def charge_sign(model: LESModel) -> Tuple[float, Dict[str, Any]]:
    """+1 or -1, by which latent charges get the sign of electronegativity, and how clear it is.

    Charges in small molecules are compared with the order of electronegativities. Where there is no
    correlation to speak of, the sign is called ambiguous and +1.
    """
    covariance, own, expected = 0.0, 0.0, 0.0
    probes = _probes(model.elements)
    for atoms in probes:
        result = model.evaluate(
            atoms.positions, atoms.numbers, molecules=np.zeros(len(atoms), dtype=np.int64)
        )
        charges = result.latent_charges - result.latent_charges.mean()
        reference = np.array([starting_charge(int(z)) for z in atoms.numbers])
        reference = reference - reference.mean()
        covariance += float(charges @ reference)
        own += float(charges @ charges)
        expected += float(reference @ reference)
    norm = (own * expected) ** 0.5
    correlation = covariance / norm if norm > 0.0 else 0.0
    notes = {
        "correlation": round(correlation, 3),
        "probes": [atoms.get_chemical_formula() for atoms in probes],
        "ambiguous": abs(correlation) < _CLEAR,
    }
    return (-1.0 if correlation <= -_CLEAR else 1.0), notes


def probe_box(
    model: LESModel,
) -> Optional[Tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Numbers, positions (Å), cell and molecules of 8 molecules at the density of a liquid.

    None where no small molecule is made of the model's elements.
    """
    probes = _probes(model.elements)
    if not probes:
        return None
    unit = probes[0]
    spacing = (10.0 * len(unit)) ** (1.0 / 3.0)  # 10 Å³ for each atom, as in water
    generator = np.random.default_rng(1)
    positions = []
    for corner in np.ndindex(2, 2, 2):
        rotation, _ = np.linalg.qr(generator.normal(size=(3, 3)))
        centred = unit.positions - unit.positions.mean(0)
        positions.append(centred @ rotation + spacing * np.array(corner))
    numbers = np.tile(unit.numbers, 8)
    molecules = np.repeat(np.arange(8), len(unit))
    return numbers, np.concatenate(positions), 2.0 * spacing * np.eye(3), molecules


def _probes(elements: List[int]) -> List[Atoms]:
    """Molecules made of some elements; pairs of atoms where there are none."""
    known = [molecule(name) for name in _MOLECULES]
    found = [atoms for atoms in known if set(atoms.numbers) <= set(elements)]
    if found:
        return found
    scale = PAULING_ELECTRONEGATIVITY
    rated = sorted((z for z in elements if z in scale), key=lambda z: scale[z])
    if len(rated) < 2:
        return []
    first, last = rated[0], rated[-1]
    distance = float(covalent_radii[first] + covalent_radii[last])
    return [Atoms([first, last], positions=[[0.0, 0.0, 0.0], [0.0, 0.0, distance]])]


__all__ = ["charge_sign", "probe_box"]
