"""Charge equilibration: latent charges that minimise an energy, and so follow each other and a field.

Rappé and Goddard, J. Phys. Chem. 95, 3358 (1991), with Gaussian charges as in Ghasemi et al., Phys.
Rev. B 92, 045131 (2015), whose electronegativities also come from a network.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple, cast

import torch
from torch import Tensor, nn

from openmm_les.electrostatics import LatentCoulomb
from openmm_les.electrostatics.isolated import self_hardness
from openmm_les.graph import Graph, atoms_of, cell_of, configuration_index
from openmm_les.models.backbone import BackboneOutput
from openmm_les.models.constants import element_index
from openmm_les.models.heads import NoCharges, conserve_charge, starting_charge
from openmm_les.models.long_range import External, LongRange
from openmm_les.models.model import LESModel

CONSERVED = ("molecule", "configuration")
SOLVERS = ("auto", "dense", "iterative")
LEAST_HARDNESS = 0.5
"""eV/e², of every atom beyond the self-interaction of its Gaussian"""
STARTING_HARDNESS = 8.0
"""eV/e², the same at the start of training; polarisabilities of water, acetamide and benzene in their planes
are then those of experiment within a fifth or so"""
STARTING_SHARE = 0.5
"""Charge that an atom starts from alone over the one it is to have: neighbours of the other sign raise it,
in small organic molecules to 0.7 to 1.1 of `starting_charge`"""
LARGEST_DENSE = 600
"""Atoms up to which "auto" solves by the matrix where the Coulomb sum is the exact one"""
LARGEST_MESHLESS = 150
"""Atoms up to which it does so, and takes the exact sum, where that would be the mesh; one CPU core then
takes the matrix as fast as the ten sums or so of an iteration"""
MOST_ITERATIONS = 300


class ChargeEquilibration(nn.Module):
    r"""Charges that minimise ``Σ χ_i q_i + ½ Σ J_i q_i² + E_LES(q) + Σ φ_i q_i`` at given totals.

    E_LES is the model's own Coulomb sum and φ an external potential, where there is one: among MM
    charges the region polarises. A module for the place `LESModel.sources`; see `LongRange`.

    Parameters
    ----------
    elements : atomic numbers
    n_features : of the backbone
    n_hidden : width of the network
    gain : e, by which its output counts in the charges; the larger, the faster they learn
    conserve : what keeps its total charge: each "molecule", or each "configuration" (in a hybrid: the
        region), through all of which charge then flows: in a cell the dipole of such a system depends on
        the images that are looked at, as that of charged molecules does
    solver : "dense" solves linear equations with the exact sum; "iterative" needs no matrix; "auto" takes
        the latter for more than `LARGEST_DENSE` atoms, or `LARGEST_MESHLESS` on a mesh
    tolerance : eV/e, up to which "iterative" evens out dE/dq over what keeps its charge (root mean
        square; in single precision not below what rounding leaves). Forces take the charges for the minimum:
        they are off by about this times dq/dr (below 1 e/Å), energies by its square over J
    electrostatics : the model's Coulomb sum

    Raises
    ------
    ValueError
        A value out of range.

    Notes
    -----
    χ = -J b, where b, the charge that an atom would take alone, is an element's start value plus the
    network's output. J is learned for each element and exceeds ``2 ke/(√(2π) σ)``, the curvature that the
    Gaussian's interaction with itself has and that the sum leaves out (11.5 eV/e² at σ = 1 Å). With it
    the Coulomb energy of any charges anywhere is at least zero, so that the whole has one minimum in
    all geometries, however close atoms come: there is no polarisation catastrophe.

    Energies count from those of the atoms alone, -½ Σ χ²/J: what is left, ½ Σ J (q - b)² + E_LES, is zero
    where nothing interacts. No charge depends on this zero, but training does: with the other one 600
    steps made charges small (std(q) 0.05 e instead of 0.30, dipoles 0.16 times their labels instead of
    0.68), because the energies of single atoms rewarded it.

    Charges are stationary, so that energies change with positions as at fixed charges (`LongRange`'s
    ``response`` is Σ χ_i q_i + ½ χ_i²/J_i at constant q). With ``differentiable=True`` charges come from the
    dense equations, as functions of positions and weights to any order; time then grows as N³, memory as
    N².
    """

    if TYPE_CHECKING:  # TorchScript cannot read such annotations
        index: Tensor
        element_charge: Tensor

    def __init__(
        self,
        elements: List[int],
        n_features: int,
        n_hidden: int = 32,
        gain: float = 0.1,
        conserve: str = "molecule",
        solver: str = "auto",
        tolerance: float = 1e-6,
        *,
        electrostatics: LatentCoulomb,
    ) -> None:
        super().__init__()
        for name, value in (("gain", gain), ("tolerance", tolerance)):
            if not 0.0 < value < math.inf:
                raise ValueError(f"`{name}` must be positive, got {value}")
        if conserve not in CONSERVED:
            raise ValueError(f"`conserve` must be one of {', '.join(CONSERVED)}, got {conserve!r}")
        if solver not in SOLVERS:
            raise ValueError(f"`solver` must be one of {', '.join(SOLVERS)}, got {solver!r}")
        self.settings = dict(
            elements=[int(z) for z in elements],
            n_features=n_features,
            n_hidden=n_hidden,
            gain=gain,
            conserve=conserve,
            solver=solver,
            tolerance=tolerance,
        )
        self.responds = True
        self.gain = float(gain)
        self.by_molecule = conserve == "molecule"
        self.solver = solver
        self.tolerance = float(tolerance)
        self.electrostatics = electrostatics
        self.largest_dense, self.largest_meshless = LARGEST_DENSE, LARGEST_MESHLESS
        self.most_iterations = MOST_ITERATIONS
        self.least_hardness = LEAST_HARDNESS
        if not electrostatics.self_interaction:
            self.least_hardness += self_hardness(electrostatics.smearing, electrostatics.coulomb_constant)
        self.register_buffer("index", element_index(elements), persistent=False)
        # Fixed, and the network starts silent: see LatentChargeHead.
        base = STARTING_SHARE * torch.tensor([starting_charge(e) for e in elements])
        self.register_buffer("element_charge", base)
        # In units of the start value, so that optimisers' steps are neither lost on it nor rush it.
        self.hardness_unit = STARTING_HARDNESS
        start = math.log(math.expm1(1.0 - LEAST_HARDNESS / STARTING_HARDNESS))  # inverse of softplus
        self.hardness_parameter = nn.Parameter(torch.full((len(elements),), start))
        self.hidden = nn.Linear(n_features, n_hidden)
        self.output = nn.Linear(n_hidden, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    @torch.jit.unused
    def config(self) -> Dict[str, Any]:
        """Constructor arguments but ``electrostatics``, JSON-ready."""
        return dict(self.settings)

    def forward(
        self, atoms: BackboneOutput, graph: Graph, differentiable: bool, external: Optional[External]
    ) -> LongRange:
        """See `LongRange`; raises RuntimeError where no minimum is found."""
        electronegativity, hardness = self.coefficients(atoms.features, graph.numbers)
        places, slopes = graph.positions, electronegativity
        if external is not None:
            slopes = slopes + external.potential
        if differentiable:
            charges = self.equilibrium(places, slopes, hardness, graph, True)
            held, cost = charges, electronegativity
        else:
            with torch.no_grad():
                # Clones, because freezing the script drops detach().
                places, cost = places.clone(), electronegativity.clone()
                charges = self.equilibrium(places, slopes.clone(), hardness, graph, False)
                held = charges.clone()
        energies: List[Tensor] = []
        gradients: List[Tensor] = []
        for i in range(graph.cells.shape[0]):
            begin, end = atoms_of(graph, i)
            cell = cell_of(graph, i)
            energy, _, gradient = self.electrostatics(
                places[begin:end], held[begin:end], cell, self.by_matrix(end - begin, cell)
            )
            energies.append(energy)
            gradients.append(gradient)
        own = 0.5 * (cost + hardness * held) ** 2 / hardness  # χ q + J q²/2, and χ²/2J of atoms alone
        made = torch.stack(energies).index_add(0, configuration_index(graph), own)
        with torch.no_grad():
            constant = charges.clone()
        return LongRange(
            made,
            charges,
            torch.zeros_like(graph.positions),
            (electronegativity * (constant + 0.5 * electronegativity / hardness)).sum(),
            torch.cat(gradients),
        )

    def moments(self, atoms: BackboneOutput, graph: Graph) -> Tuple[Tensor, Tensor]:
        """Charges ([n_atoms], e) and zeros for dipoles, differentiable unless under ``no_grad``."""
        slopes, hardness = self.coefficients(atoms.features, graph.numbers)
        charges = self.equilibrium(graph.positions, slopes, hardness, graph, torch.is_grad_enabled())
        return charges, torch.zeros_like(graph.positions)

    def coefficients(self, features: Tensor, numbers: Tensor) -> Tuple[Tensor, Tensor]:
        """χ ([n_atoms], eV/e) and J ([n_atoms], eV/e²) of atoms."""
        elements = self.index[numbers]
        learned = self.hardness_unit * nn.functional.softplus(self.hardness_parameter)
        hardness = (learned + self.least_hardness)[elements]
        output = self.output(nn.functional.silu(self.hidden(features)))[:, 0]
        return -hardness * (self.element_charge[elements] + self.gain * output), hardness

    def equilibrium(
        self, positions: Tensor, slopes: Tensor, hardness: Tensor, graph: Graph, differentiable: bool
    ) -> Tensor:
        """Charges at the minimum, [n_atoms] in e.

        Parameters
        ----------
        positions : [n_atoms, 3], Å
        slopes : [n_atoms], eV/e, χ + φ
        hardness : [n_atoms], eV/e², J
        graph : for cells, offsets and molecules
        differentiable : whether by the dense equations in any case
        """
        found: List[Tensor] = []
        for i in range(graph.cells.shape[0]):
            begin, end = atoms_of(graph, i)
            cell = cell_of(graph, i)
            members, totals = self.conserved(graph, begin, end)
            problem = (positions[begin:end], slopes[begin:end], hardness[begin:end], members, totals)
            if differentiable or self.by_matrix(end - begin, cell):
                found.append(self.by_equations(*problem, cell))
            else:
                found.append(self.by_iteration(*problem, cell))
        return torch.cat(found)

    def by_matrix(self, n_atoms: int, cell: Optional[Tensor]) -> bool:
        """Whether so many atoms in this cell are solved by the matrix, with the exact sum."""
        most = self.largest_dense
        if self.electrostatics.method == "pme":
            most = 0
        elif self.electrostatics.takes_mesh(n_atoms, cell):
            most = self.largest_meshless
        return self.solver == "dense" or (self.solver == "auto" and n_atoms <= most)

    def conserved(self, graph: Graph, begin: int, end: int) -> Tuple[Tensor, Tensor]:
        """What keeps its charge among the atoms ``begin:end``: index of each atom, total of each, in e."""
        molecules = graph.molecules[begin:end]
        present = torch.zeros_like(graph.molecule_charges, dtype=torch.int64).index_fill(0, molecules, 1)
        totals = graph.molecule_charges[present > 0]
        members = (torch.cumsum(present, 0) - 1)[molecules]
        if not self.by_molecule:
            members, totals = torch.zeros_like(molecules), totals.sum().unsqueeze(0)
        return members, totals

    def by_equations(
        self,
        positions: Tensor,
        slopes: Tensor,
        hardness: Tensor,
        members: Tensor,
        totals: Tensor,
        cell: Optional[Tensor],
    ) -> Tensor:
        """Minimum for one configuration by a dense solve with Lagrange multipliers, [n] in e."""
        hessian = self.electrostatics.matrix(positions, cell) + torch.diag(hardness)
        with torch.no_grad():
            failed = int(torch.linalg.cholesky_ex(hessian)[1])
        if failed != 0:
            return _no_minimum(slopes, "hardness and Coulomb matrix are not positive definite")
        one_hot = (members.unsqueeze(1) == torch.arange(totals.shape[0], device=members.device)).to(
            slopes.dtype
        )  # [n, n_conserved]
        solved = torch.linalg.solve(hessian, torch.cat((-slopes.unsqueeze(1), one_hot), 1))
        free, shifts = solved[:, 0], solved[:, 1:]
        multipliers = torch.linalg.solve(one_hot.t() @ shifts, totals - one_hot.t() @ free)
        return free + shifts @ multipliers

    def by_iteration(
        self,
        positions: Tensor,
        slopes: Tensor,
        hardness: Tensor,
        members: Tensor,
        totals: Tensor,
        cell: Optional[Tensor],
    ) -> Tensor:
        """Minimum for one configuration by projected conjugate gradients, [n] in e.

        Preconditioned by J; Gould, Hribar and Nocedal, SIAM J. Sci. Comput. 23, 1376 (2001), algorithm 2.1.
        """
        shares, zeros = 1.0 / hardness, torch.zeros_like(totals)
        charges = conserve_charge(-slopes * shares, shares, members, totals)
        residual = -(slopes + hardness * charges + self.electrostatics(positions, charges, cell)[1])
        step = conserve_charge(residual * shares, shares, members, zeros)
        direction, product = step, (hardness * step * step).sum()
        rounding = 2.2e-16 if slopes.dtype == torch.float64 else 1.2e-7
        target = max(self.tolerance, 30.0 * rounding * float(slopes.abs().max()))
        iterations = 0
        while float((hardness * step).square().mean().sqrt()) > target:
            applied = hardness * direction + self.electrostatics(positions, direction, cell)[1]
            curvature = (direction * applied).sum()
            if iterations == self.most_iterations or not float(curvature) > 0.0:
                return _no_minimum(slopes, "conjugate gradients do not converge")
            charges = charges + product / curvature * direction
            # The part of the residual that no charge can follow is dropped each time: it only rounds.
            residual = hardness * step - product / curvature * applied
            step = conserve_charge(residual * shares, shares, members, zeros)
            new = (hardness * step * step).sum()
            direction = step + new / product * direction
            product = new
            iterations += 1
        return conserve_charge(charges, shares, members, totals)  # rounding does not add up


def equilibrate_charges(model: LESModel, **settings: Any) -> None:
    """Give a model charges that equilibrate in the place of those it has.

    They start from the elements' electronegativities: train the model before using it. A short-range
    part that was trained beside other charges makes up for those at first.

    Parameters
    ----------
    model : changed in place; its Coulomb sum stays
    settings : of `ChargeEquilibration`, by name, beside the elements and features of the model

    Raises
    ------
    ValueError
        A setting out of range.
    """
    parameter = next(model.parameters())
    sources = ChargeEquilibration(
        model.elements,
        int(cast(int, model.backbone.n_features)),
        electrostatics=model.electrostatics,
        **settings,
    )
    model.charge_head, model.charge_scale = NoCharges(), 1.0  # sign and size of charges that are gone
    model.set_sources(sources.to(parameter.device, parameter.dtype))


def _no_minimum(like: Tensor, reason: str) -> Tensor:
    """Raises RuntimeError; within a script NaN, of which the force that OpenMM runs makes an error.

    An error this deep in a frozen script would end the process instead of being reported.
    """
    if not torch.jit.is_scripting():
        raise RuntimeError(
            f"openmm-les: charge equilibration has no minimum: {reason}. Are weights or positions damaged?"
        )
    return torch.full_like(like, math.nan)


__all__ = ["CONSERVED", "SOLVERS", "ChargeEquilibration", "equilibrate_charges"]
