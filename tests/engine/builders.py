"""Models and systems for the tests of engine and embedding."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import openmm
import torch
from openmm import app, unit

from openmm_les.electrostatics import LatentCoulomb
from openmm_les.engine.files import save_system
from openmm_les.engine.routes import available_routes
from openmm_les.models.equilibration import ChargeEquilibration
from openmm_les.models.equivariant import EquivariantBackbone
from openmm_les.models.heads import LatentChargeHead, NoCharges
from openmm_les.models.model import LESModel
from tests.builders import FORMAMIDE, FORMAMIDE_NUMBERS, WATER, WATER_NUMBERS

ELEMENTS = [1, 6, 7, 8, 11, 17]
ROUTES_HERE = [name for name, status in available_routes().items() if status.available]
"""Routes that the installed versions allow."""

NM = 0.1
KJ = 96.48533212331
BOXES = {
    "isolated": None,
    "cubic": np.diag([0.95, 0.95, 0.95]),
    # Of OpenMM's reduced form: a along x, b in the xy plane.
    "triclinic": np.array([[0.95, 0.0, 0.0], [0.2, 0.9, 0.0], [-0.3, 0.25, 1.0]]),
}


def quiet_model(seed: int = 0, **settings) -> LESModel:
    """Untrained model in double whose energies stay in the range of real ones; quick to compile."""
    small = {"n_channels": 8, "n_message": 4, "n_radial": 8, "n_basis": 4, "n_layers": 1}
    arguments = {**small, **settings}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = EquivariantBackbone(ELEMENTS, **arguments)
        head = LatentChargeHead(ELEMENTS, backbone.n_features)
    references = [-13.0, -1000.0, -1400.0, -2000.0, -150.0, -12000.0]
    # So tight that every sum is the exact one: a mesh would make its error depend on the origin.
    return LESModel(backbone, head, LatentCoulomb(tolerance=1e-8), ELEMENTS, references).double()


def equilibrating_model(seed: int = 0, **settings) -> LESModel:
    """`quiet_model` with charges that equilibrate, and follow their surroundings from the start."""
    model = quiet_model(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sources = ChargeEquilibration(
            ELEMENTS, model.backbone.n_features, electrostatics=model.electrostatics, **settings
        )
        torch.nn.init.normal_(sources.output.weight, std=0.3)
    return LESModel(
        model.backbone,
        NoCharges(),
        model.electrostatics,
        ELEMENTS,
        model.reference_energies[torch.tensor(ELEMENTS)].tolist(),
        sources=sources.double(),
    )


def water_and_formamide() -> tuple[np.ndarray, list[int], list[int]]:
    """Positions in nm ([9, 3]), atomic numbers and molecules of a water beside a formamide."""
    positions = np.concatenate([WATER, FORMAMIDE + np.array([3.0, 1.0, 0.5])]) * NM
    return positions, WATER_NUMBERS + FORMAMIDE_NUMBERS, [0] * 3 + [1] * 6


def topology_of(
    molecules: list[tuple[str, list[int], list[tuple[int, int]]]], box: np.ndarray | None = None
) -> app.Topology:
    """Topology of molecules given as residue name, atomic numbers and bonds."""
    topology = app.Topology()
    chain = topology.addChain()
    for name, numbers, bonds in molecules:
        residue = topology.addResidue(name, chain)
        atoms = [
            topology.addAtom(
                f"{app.Element.getByAtomicNumber(z).symbol}{k}", app.Element.getByAtomicNumber(z), residue
            )
            for k, z in enumerate(numbers)
        ]
        for i, j in bonds:
            topology.addBond(atoms[i], atoms[j])
    if box is not None:
        topology.setPeriodicBoxVectors([openmm.Vec3(*v) for v in box] * unit.nanometer)
    return topology


WATER_RESIDUE = ("HOH", WATER_NUMBERS, [(0, 1), (0, 2)])
FORMAMIDE_RESIDUE = ("FOR", FORMAMIDE_NUMBERS, [(0, 1), (0, 2), (0, 3), (2, 4), (2, 5)])


def make_context(system: openmm.System, positions: np.ndarray, platform: str = "Reference") -> openmm.Context:
    """Context of a system with positions in nm."""
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.0005), openmm.Platform.getPlatformByName(platform)
    )
    context.setPositions(positions)
    return context


def energy_of(context: openmm.Context) -> float:
    """Potential energy, kJ/mol."""
    return context.getState(getEnergy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)


READER = """
import sys, numpy, openmm
from openmm_les.engine.files import load_system
context = openmm.Context(load_system(sys.argv[1]), openmm.VerletIntegrator(0.001),
                         openmm.Platform.getPlatformByName("Reference"))
context.setPositions(numpy.load(sys.argv[2]))
print(context.getState(getEnergy=True).getPotentialEnergy()._value)
"""


def energy_in_another_process(system: openmm.System, positions: np.ndarray, folder: Path) -> float:
    """Potential energy, kJ/mol, where Python has nothing but the system's file in ``folder``."""
    path, coordinates = folder / "system.xml", folder / "positions.npy"
    save_system(system, path)
    np.save(coordinates, positions)
    done = subprocess.run(
        [sys.executable, "-c", READER, str(path), str(coordinates)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


def forces_of(context: openmm.Context) -> np.ndarray:
    """Forces [n, 3], kJ/mol/nm."""
    forces = context.getState(getForces=True).getForces(asNumpy=True)
    return forces.value_in_unit(unit.kilojoule_per_mole / unit.nanometer)


def run_module(module, positions, box=None, *more):
    """Energy and forces of a module of the boundary, as numpy; ``more`` are its parameters."""
    arguments = [torch.tensor(positions)]
    if box is not None:
        arguments.append(torch.as_tensor(box))
    energy, forces = module(*arguments, *(torch.as_tensor(x, dtype=torch.float64) for x in more))
    # A script may keep the record of gradients on what it returns.
    return float(energy.detach()), forces.detach().numpy()


def numerical_forces(energy, positions: np.ndarray, components: list[tuple[int, int]]) -> np.ndarray:
    """Central differences of ``energy(positions)`` for (atom, axis) pairs, fourth order."""
    step = 2e-4
    found = []
    for atom, axis in components:
        values = []
        for multiple in (-2, -1, 1, 2):
            moved = positions.copy()
            moved[atom, axis] += multiple * step
            values.append(energy(moved))
        found.append(-(values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step))
    return np.array(found)


def evaluation(context: openmm.Context, groups: set[int] | int = -1):
    """Function of positions (nm) that gives a context's energy and forces, of force groups (-1 = all)."""

    def evaluate(positions: np.ndarray) -> tuple[float, np.ndarray]:
        context.setPositions(positions)
        state = context.getState(energy=True, forces=True, groups=groups)
        forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
        return state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole), forces

    return evaluate


def check_forces(
    evaluate, positions: np.ndarray, components: list[tuple[int, int]], tolerance: float
) -> np.ndarray:
    """All forces at ``positions``, of which (atom, axis) pairs are checked against the energy.

    ``evaluate`` gives energy and forces at positions; ``tolerance`` is a share of the largest force.
    """
    expected = numerical_forces(lambda x: evaluate(x)[0], positions, components)
    _, forces = evaluate(positions)
    found = np.array([forces[i, k] for i, k in components])
    assert np.abs(found - expected).max() < tolerance * np.abs(forces).max()
    return forces
