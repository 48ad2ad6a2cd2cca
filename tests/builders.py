"""Small systems that several test modules build on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from openmm_les.electrostatics import LatentCoulomb
from openmm_les.graph import Graph
from openmm_les.models.equivariant import EquivariantBackbone
from openmm_les.models.heads import LatentChargeHead, NoCharges
from openmm_les.models.model import LESModel
from openmm_les.models.multipole_sources import MultipoleSources
from openmm_les.neighbors import all_pairs

ELEMENTS = [1, 6, 7, 8, 17]
TRICLINIC = [[9.0, 0.3, -0.4], [2.5, 8.5, 0.6], [-1.8, 3.1, 9.5]]

WATER = np.array([[0.0, 0.0, 0.0], [0.757, 0.586, 0.0], [-0.757, 0.586, 0.0]])
WATER_NUMBERS = [8, 1, 1]
# Planar-ish formamide, a molecule of four elements without symmetry.
FORMAMIDE = np.array(
    [
        [0.00, 0.00, 0.00],
        [1.21, 0.05, 0.02],
        [-0.72, 1.14, -0.03],
        [-0.58, -0.94, 0.05],
        [-1.72, 1.12, 0.06],
        [-0.25, 2.03, -0.10],
    ]
)
FORMAMIDE_NUMBERS = [6, 8, 7, 1, 1, 1]


def random_rotation(seed: int, reflect: bool = False) -> Tensor:
    """Orthogonal matrix [3, 3] in double, proper unless ``reflect``."""
    matrix, _ = torch.linalg.qr(
        torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    )
    wanted = -1.0 if reflect else 1.0
    return matrix * (wanted * torch.sign(torch.linalg.det(matrix)))


def random_charges_in_cell(seed: int, n_atoms: int = 6, cell: Sequence[Sequence[float]] = TRICLINIC):
    """Positions, neutral charges and cell in double."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.tensor(cell, dtype=torch.float64)
    positions = torch.rand(n_atoms, 3, dtype=torch.float64, generator=generator) @ matrix
    charges = torch.randn(n_atoms, dtype=torch.float64, generator=generator)
    return positions, charges - charges.mean(), matrix


def make_graph(
    positions: list[np.ndarray],
    numbers: list[list[int]],
    cells: list[np.ndarray | None] | None = None,
    molecules: list[list[int]] | None = None,
    charges: list[list[float]] | None = None,
    cutoff: float = 4.5,
    dtype: torch.dtype = torch.float64,
) -> Graph:
    """Batch of configurations; one neutral molecule each unless told."""
    n_configurations = len(positions)
    cells = [None] * n_configurations if cells is None else cells
    molecules = [[0] * len(z) for z in numbers] if molecules is None else molecules
    charges = [[0.0]] * n_configurations if charges is None else charges
    parts: list[list[Tensor]] = [[], [], [], []]
    offsets, first_molecules = [0], []
    n_molecules = 0
    for r, own, cell, q in zip(positions, molecules, cells, charges):
        r = torch.as_tensor(r, dtype=dtype)
        box = None if cell is None else torch.as_tensor(cell, dtype=dtype)
        centers, neighbors, shifts = all_pairs(r, box, cutoff)
        tensors = (r, centers + offsets[-1], neighbors + offsets[-1], shifts)
        for part, tensor in zip(parts, tensors):
            part.append(tensor)
        offsets.append(offsets[-1] + len(r))
        first_molecules += [n_molecules + m for m in own]
        n_molecules += len(q)
    return Graph(
        positions=torch.cat(parts[0]),
        numbers=torch.tensor([z for part in numbers for z in part]),
        centers=torch.cat(parts[1]),
        neighbors=torch.cat(parts[2]),
        shifts=torch.cat(parts[3]),
        cells=torch.stack(
            [torch.zeros(3, 3, dtype=dtype) if c is None else torch.as_tensor(c, dtype=dtype) for c in cells]
        ),
        offsets=torch.tensor(offsets),
        molecules=torch.tensor(first_molecules),
        molecule_charges=torch.tensor([q for part in charges for q in part], dtype=dtype),
    )


def small_backbone(seed: int = 0, dtype: torch.dtype = torch.float64, **arguments) -> EquivariantBackbone:
    """Untrained network, small enough for second derivatives by finite differences."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        settings = {"n_channels": 6, "n_message": 3, "n_radial": 5, "n_basis": 4}
        backbone = EquivariantBackbone(ELEMENTS, **{**settings, **arguments})
        for name, parameter in backbone.named_parameters():
            if "bias" in name or "element_energy" in name:  # zero or tiny at the start: make them count
                torch.nn.init.normal_(parameter, std=0.1)
        return backbone.to(dtype)


def small_model(
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    electrostatics: LatentCoulomb | None = None,
    reference_energies: list[float] | None = None,
    charge_scale: float = 1.0,
    **arguments,
) -> LESModel:
    """Untrained `LESModel` around `small_backbone`."""
    backbone = small_backbone(seed, dtype, **arguments)
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        head = LatentChargeHead(ELEMENTS, backbone.n_features)
        torch.nn.init.normal_(head.output.weight, std=0.3)  # silent at the start: make it count
        head = head.to(dtype)
    solver = LatentCoulomb() if electrostatics is None else electrostatics
    return LESModel(backbone, head, solver, ELEMENTS, reference_energies, charge_scale)


def multipole_model(
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    electrostatics: LatentCoulomb | None = None,
    elements: Sequence[int] = ELEMENTS,
    n_layers: int = 2,
    cutoff: float = 4.5,
    **arguments,
) -> LESModel:
    """Untrained `LESModel` with `MultipoleSources` of ``arguments`` whose moments are of real sizes."""
    sources_settings = {"dipoles": True, **arguments}
    wanted = sources_settings.get("quadrupoles") or sources_settings.get("polarizability") == "tensor"
    settings = {
        "n_channels": 6,
        "n_message": 3,
        "n_radial": 5,
        "n_basis": 4,
        "n_layers": n_layers,
        "cutoff": cutoff,
    }
    solver = LatentCoulomb() if electrostatics is None else electrostatics
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = EquivariantBackbone(list(elements), **settings, equivariants=2 if wanted else 1)
        sources = MultipoleSources(
            list(elements),
            backbone.n_features,
            backbone.n_equivariants,
            electrostatics=solver,
            **sources_settings,
        )
        for name, parameter in sources.named_parameters():
            if "gates" in name or "output" in name or "change" in name:  # silent at the start
                torch.nn.init.normal_(parameter, std=0.5)
    return LESModel(backbone, NoCharges(), solver, list(elements), sources=sources).to(dtype)
