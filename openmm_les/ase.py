"""LES models as calculators of ASE."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from openmm_les.models.checkpoint import load_model
from openmm_les.models.model import LESModel
from openmm_les.models.response import whole_positions
from openmm_les.molecules import connected_molecules, covalent_bonds, molecule_charges

_OF_ASE = {"restart", "label", "atoms", "directory"}
_DTYPES = {"single": torch.float32, "double": torch.float64}


class LESCalculator(Calculator):
    """Energy, forces, stress, charges and dipole of a model.

    Units are ASE's (eV, Å, e). Charges are physical ones (`LESModel.physical_charges`); the dipole is
    ``Σ q r`` about the origin, with molecules made whole where there is a cell. Cells are periodic
    along all three axes or none.

    Parameters
    ----------
    model : a model, or its name or file, as `load_model` takes it
    total_charge : e, of all atoms, or one per molecule; see `openmm_les.molecules`
    molecules : [n_atoms], index of each atom's molecule; None = bonded by covalent radii where the
        calculator first meets the atoms, and kept: a bond that stretches in a run does not change
        who carries which charge (`reset` forgets them)
    precision : "single" or "double"
    device : of torch
    settings : of ASE's `Calculator`: ``atoms``, ``label``, ``directory``, ``restart``

    Raises
    ------
    TypeError
        Another argument.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress", "charges", "dipole"]
    discard_results_on_any_change = True

    def __init__(
        self,
        model: LESModel | str | Path,
        *,
        total_charge: float | Sequence[float] = 0,
        molecules: Sequence[int] | None = None,
        precision: str = "double",
        device: str = "cpu",
        **settings: Any,
    ) -> None:
        unknown = sorted(settings.keys() - _OF_ASE)
        if unknown:
            raise TypeError(f"unknown argument {', '.join(unknown)} of LESCalculator")
        super().__init__(**settings)
        if precision not in _DTYPES:
            raise ValueError(f"`precision` must be one of {', '.join(_DTYPES)}, got {precision!r}")
        if not isinstance(model, LESModel):
            model = load_model(model)
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.model.fold()
        self.model.to(device, _DTYPES[precision]).eval()
        self.total_charge = total_charge
        self._given = None if molecules is None else np.asarray(molecules)
        self._kept: tuple[bytes, np.ndarray, np.ndarray] | None = None

    def reset(self) -> None:
        """Forget results, and molecules that were found by bonds."""
        super().reset()
        self._kept = None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Everything at once, the stress where there is a cell; called by ASE.

        Of a model that responds the stress is dear: it is given where it is asked for.

        Raises
        ------
        PropertyNotImplementedError
            The stress of atoms without a cell.
        UnknownElementError
            An element that the model was not trained on.
        ValueError
            Periodic along one or two axes, or what `LESModel.evaluate` cannot use.
        """
        super().calculate(atoms, list(properties), list(system_changes))
        atoms = self.atoms
        periodic = bool(atoms.pbc.all())
        if atoms.pbc.any() and not periodic:
            raise ValueError(f"atoms must be periodic along all axes or none, got pbc={atoms.pbc.tolist()}")
        if "stress" in properties and not periodic:
            raise PropertyNotImplementedError("atoms without a cell have no stress")
        cell = np.array(atoms.cell) if periodic else None
        molecules, charges = self._molecules(atoms, cell)
        geometry = (atoms.positions, atoms.numbers, cell)
        of_molecules: dict[str, Any] = {"total_charge": charges, "molecules": molecules}
        stress = periodic and ("stress" in properties or not self.model.responds)
        result = self.model.evaluate(*geometry, **of_molecules, stress=stress)
        places = atoms.positions
        if periodic:
            places = whole_positions(self.model.make_graph(*geometry, **of_molecules)).double().cpu().numpy()
        self.results = {
            "energy": result.energy,
            "free_energy": result.energy,
            "forces": result.forces,
            "charges": result.charges,
            "dipole": result.charges @ places + result.dipoles.sum(0),
        }
        if result.stress is not None:
            self.results["stress"] = full_3x3_to_voigt_6_stress(result.stress)

    def _molecules(self, atoms: Atoms, cell: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Molecules ([n_atoms]) and their charges, found once for the same elements in the same order."""
        key = atoms.numbers.tobytes()
        if self._kept is None or self._kept[0] != key:
            bonds = covalent_bonds(atoms.positions, atoms.numbers, cell)
            molecules = self._given
            if molecules is None:
                molecules = connected_molecules(bonds, len(atoms))
            charges = molecule_charges(atoms.numbers, molecules, self.total_charge, bonds)
            self._kept = (key, molecules, charges)
        return self._kept[1:]


__all__ = ["LESCalculator"]
