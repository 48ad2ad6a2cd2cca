"""A model whose charges are fixed numbers, and force fields cut down to what it can be held against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import openmm
import torch
from openmm import unit
from torch import Tensor, nn

from openmm_les.electrostatics import LatentCoulomb
from openmm_les.graph import Graph
from openmm_les.models.backbone import BackboneOutput
from openmm_les.models.model import LESModel

MESH = 105
ELEMENTS = [1, 6, 7, 8, 11, 17]


class SilentBackbone(nn.Module):
    """No short-range energy."""

    cutoff = 1.0

    def forward(self, graph: Graph) -> BackboneOutput:
        zeros = 0.0 * graph.positions.sum(1)
        return BackboneOutput(zeros, zeros.unsqueeze(1))


class PinnedCharges(nn.Module):
    """The first of the charges it was given, whatever the surroundings."""

    def __init__(self, charges: Sequence[float]) -> None:
        super().__init__()
        self.charges = nn.Parameter(torch.tensor(charges, dtype=torch.float64))

    def forward(
        self, features: Tensor, numbers: Tensor, molecules: Tensor, molecule_charges: Tensor
    ) -> Tensor:
        return self.charges[: numbers.shape[0]].to(features) + features[:, 0]


def pinned_model(charges: Sequence[float], smearing: float = 1e-3, periodic: bool = True) -> LESModel:
    """Model of point charges (``smearing`` in Å) without a short-range energy."""
    solver = LatentCoulomb(smearing, tolerance=1e-8, method="ewald" if periodic else "isolated")
    return LESModel(SilentBackbone(), PinnedCharges(charges), solver, ELEMENTS).double()


def nonbonded_only(system: openmm.System, tolerance: float | None = 1e-9) -> openmm.System:
    """Copy with the NonbondedForce alone, without tail correction, by Ewald's sum or a very fine mesh.

    ``tolerance``: of Ewald's sum; None leaves the method as it is.
    """
    copy = openmm.XmlSerializer.clone(system)
    for k in reversed(range(copy.getNumForces())):
        force = copy.getForce(k)
        if not isinstance(force, openmm.NonbondedForce):
            copy.removeForce(k)
            continue
        force.setUseDispersionCorrection(False)
        if force.usesPeriodicBoundaryConditions() and tolerance is not None:
            force.setEwaldErrorTolerance(tolerance)
            if system.getNumParticles() < 2500 and _is_rectangular(system):
                force.setNonbondedMethod(openmm.NonbondedForce.Ewald)
            else:
                # OpenMM's Ewald knows no tilted boxes; a mesh of odd size has no Nyquist planes.
                cutoff = force.getCutoffDistance().value_in_unit(unit.nanometer)
                force.setPMEParameters((-np.log(2.0 * tolerance)) ** 0.5 / cutoff, *(3 * [MESH]))
    return copy


def _is_rectangular(system: openmm.System) -> bool:
    box = np.array([v.value_in_unit(unit.nanometer) for v in system.getDefaultPeriodicBoxVectors()])
    return bool((box == np.diag(np.diag(box))).all())


def part_of(system: openmm.System, atoms: Sequence[int]) -> openmm.System:
    """The particles ``atoms`` of a `nonbonded_only` system alone, in the same box."""
    whole = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    part = openmm.System()
    part.setDefaultPeriodicBoxVectors(*system.getDefaultPeriodicBoxVectors())
    place = {atom: k for k, atom in enumerate(atoms)}
    force = openmm.NonbondedForce()
    force.setNonbondedMethod(whole.getNonbondedMethod())
    force.setCutoffDistance(whole.getCutoffDistance())
    force.setEwaldErrorTolerance(whole.getEwaldErrorTolerance())
    force.setPMEParameters(*whole.getPMEParameters())
    force.setUseSwitchingFunction(whole.getUseSwitchingFunction())
    force.setSwitchingDistance(whole.getSwitchingDistance())
    force.setUseDispersionCorrection(False)
    force.setExceptionsUsePeriodicBoundaryConditions(whole.usesPeriodicBoundaryConditions())
    for atom in atoms:
        part.addParticle(system.getParticleMass(atom))
        force.addParticle(*whole.getParticleParameters(atom))
    for k in range(whole.getNumExceptions()):
        i, j, *parameters = whole.getExceptionParameters(k)
        if i in place and j in place:
            force.addException(place[i], place[j], *parameters)
    part.addForce(force)
    return part


def charges_of(system: openmm.System, atoms: Sequence[int]) -> list[float]:
    """Charges of particles in e."""
    force = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    return [force.getParticleParameters(i)[0].value_in_unit(unit.elementary_charge) for i in atoms]
