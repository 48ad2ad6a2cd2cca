"""The LES model: a short-range backbone, a latent-charge head and a Coulomb sum."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Callable, List, NamedTuple, Optional, Sequence, Tuple, Union, cast

import numpy as np
import torch
from torch import Tensor, nn

from openmm_les.electrostatics import LatentCoulomb
from openmm_les.elements import symbol
from openmm_les.exceptions import UnknownElementError
from openmm_les.graph import Graph, atoms_of, cell_of, configuration_index
from openmm_les.models.backbone import BackboneOutput
from openmm_les.models.domain import FeatureDomain
from openmm_les.models.evaluation import Evaluation, evaluate_graph, evaluate_in_field
from openmm_les.models.heads import conserve_charge
from openmm_les.models.long_range import External, LongRange
from openmm_les.molecules import connected_molecules, covalent_bonds, molecule_charges
from openmm_les.neighbors import single_graph


class Prediction(NamedTuple):
    """Energies of configurations and charges of atoms."""

    energy_short_range: Tensor
    """[n_configurations], eV, reference energies of the elements included"""
    energy_long_range: Tensor
    """[n_configurations], eV"""
    latent_charges: Tensor
    """[n_atoms], e"""
    latent_dipoles: Tensor
    """[n_atoms, 3], e·Å, zeros for a model of charges alone"""
    response: Tensor
    """scalar, eV, a surrogate: its gradient is that of the long-range energy through the charges (and
    dipoles) of the atoms, the part that `gradients` leaves out"""
    gradients: Tensor
    """[n_atoms, 3], eV/Å, of the long-range energy at fixed charges (and dipoles)"""
    latent_quadrupoles: Optional[Tensor] = None
    """[n_atoms, 3, 3], e·Å², of a model that is ``quadrupolar``"""


class LESModel(nn.Module):
    """Short-range energies plus the Coulomb energy of latent charges.

    Parameters
    ----------
    backbone : module as `BackboneOutput` describes
    charge_head : module (features, numbers, molecules, molecule_charges) -> charges
    electrostatics : `LatentCoulomb` or a module with its signature
    elements : atomic numbers the model knows, ascending
    reference_energies : eV per atom of each element, added to the short-range energy
    charge_scale : sign and size by which latent charges become physical ones, see `physical_charges`
    domain : what the training data look like, for `novelty`; None = not known
    sources : module as `LongRange` describes that decides charges and their energy; None = the charge
        head and the Coulomb sum
    """

    if TYPE_CHECKING:  # TorchScript cannot read such annotations
        reference_energies: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        charge_head: nn.Module,
        electrostatics: LatentCoulomb,
        elements: List[int],
        reference_energies: Optional[List[float]] = None,
        charge_scale: float = 1.0,
        domain: Optional[FeatureDomain] = None,
        sources: Optional[nn.Module] = None,
    ) -> None:
        super().__init__()
        if not (charge_scale != 0.0 and math.isfinite(charge_scale)):
            raise ValueError(f"`charge_scale` must be finite and not zero, got {charge_scale}")
        self.charge_scale = float(charge_scale)
        self.backbone = backbone
        self.charge_head = charge_head
        self.electrostatics = electrostatics
        self.domain = domain
        self.set_sources(sources)
        self.elements = [int(z) for z in elements]
        self.cutoff = float(cast(float, backbone.cutoff))
        # Not annotated in place: torch.jit.script warns of that.
        self.metadata = dict[str, Any]()
        # Total energies are thousands of eV: kept in double whatever the weights are in.
        table = torch.zeros(119, dtype=torch.float64)
        if reference_energies is not None:
            table[torch.tensor(elements)] = torch.tensor(reference_energies, dtype=torch.float64)
        self.register_buffer("reference_energies", table)

    @torch.jit.unused
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        references = self.reference_energies
        super()._apply(fn, recurse)
        self.reference_energies = references.to(self.reference_energies.device)
        return self

    @torch.jit.unused
    def fold(self) -> None:
        """Let parts compute what follows from constant weights once and for all.

        For simulations; later changes of the weights may go unnoticed.
        """
        for module in self.modules():
            fold = getattr(module, "fold", None)
            if module is not self and fold is not None:
                fold()

    def forward(
        self, graph: Graph, differentiable: bool = True, external: Optional[External] = None
    ) -> Prediction:
        """Energies and charges, differentiable in positions and cells.

        With ``differentiable=False`` the long-range energy and its gradients are constants (the
        short-range energy and the charges are not, except charges that `sources` find as a minimum).
        Forces are then those of ``energy_short_range + response``, less ``gradients``: what a simulation
        needs, without autograd's record of the Coulomb sum. ``external`` is for a model that ``responds``;
        its energy is the caller's to add: as a function of ``external`` too, ``response`` and
        ``gradients`` are those of both together.
        """
        atoms = self.backbone(graph)
        configurations = configuration_index(graph)
        references = self.reference_energies[graph.numbers]  # float64
        short = torch.zeros(graph.cells.shape[0], dtype=references.dtype, device=references.device)
        short = short.index_add(0, configurations, atoms.energies.to(references.dtype) + references)
        sources = self.sources
        if sources is not None:
            found: LongRange = sources(atoms, graph, differentiable, external)
        else:
            found = self.sum_of_charges(atoms, graph, differentiable)
        return Prediction(
            short,
            found.energies,
            found.charges,
            found.dipoles,
            found.response,
            found.gradients,
            found.quadrupoles,
        )

    def sum_of_charges(self, atoms: BackboneOutput, graph: Graph, differentiable: bool) -> LongRange:
        """The long range of a model without `sources`: the head's charges in the Coulomb sum."""
        charges = self.charge_head(atoms.features, graph.numbers, graph.molecules, graph.molecule_charges)
        energies: List[Tensor] = []
        potentials: List[Tensor] = []
        gradients: List[Tensor] = []
        places, held = graph.positions, charges
        if not differentiable:
            with torch.no_grad():
                # Clones, because freezing the script drops detach().
                places, held = graph.positions.clone(), charges.clone()
        for i in range(graph.cells.shape[0]):
            begin, end = atoms_of(graph, i)
            energy, potential, gradient = self.electrostatics(
                places[begin:end], held[begin:end], cell_of(graph, i)
            )
            energies.append(energy)
            potentials.append(potential)
            gradients.append(gradient)
        with torch.no_grad():
            constant = torch.cat(potentials).clone()
        return LongRange(
            torch.stack(energies),
            charges,
            torch.zeros_like(graph.positions),
            (constant * charges).sum(),
            torch.cat(gradients),
        )

    @torch.jit.export
    def moments(self, graph: Graph) -> Tuple[Tensor, Tensor]:
        """Physical charges ([n_atoms], e) and dipoles ([n_atoms, 3], e·Å) without an energy.

        Differentiable in positions; see `physical_charges`. The Coulomb sum is run only where
        `sources` need it to find them.
        """
        atoms = self.backbone(graph)
        sources = self.sources
        if sources is not None:
            charges, dipoles = sources.moments(atoms, graph)  # type: ignore[operator]
        else:
            charges = self.charge_head(atoms.features, graph.numbers, graph.molecules, graph.molecule_charges)
            dipoles = torch.zeros_like(graph.positions)
        return self.physical_charges(charges, graph), dipoles

    @torch.jit.export
    def physical_charges(self, latent_charges: Tensor, graph: Graph) -> Tensor:
        """Charges as MM charges, fields and dipoles meet them, [n_atoms] in e.

        Among themselves latent charges may have either sign, a factor such as 1/√ε∞ and a net charge
        that no molecule has. ``charge_scale`` takes out the first two, an even shift of each
        molecule's atoms the last. For a model that conserves charge, at scale 1, these are the
        latent charges, and for one with `sources` they are as those say.
        """
        if self.sources is not None:
            return latent_charges
        charges = self.charge_scale * latent_charges
        return conserve_charge(charges, torch.ones_like(charges), graph.molecules, graph.molecule_charges)

    @torch.jit.export
    def novelty(self, graph: Graph) -> Tensor:
        """How far each atom lies from the training data, [n_atoms]: 1 where few of theirs went.

        See `FeatureDomain`; NaN where the model does not know its training data.
        """
        features = self.backbone(graph).features
        domain = self.domain
        if domain is not None:
            return domain(features, graph.numbers)
        return torch.full_like(features[:, 0], math.nan)

    @torch.jit.unused
    def charge_module(self) -> nn.Module:
        """What decides the charges and learns them: `sources`, or else the charge head."""
        return self.charge_head if self.sources is None else self.sources

    @torch.jit.unused
    def set_sources(self, sources: Optional[nn.Module]) -> None:
        """Put another module (or none: the charge head) in the place `sources`.

        Raises
        ------
        ValueError
            The model's charges have a scale, which those of sources must not; the backbone lacks the
            vectors or tensors that the sources read.
        """
        check_equivariants(self.backbone, type(sources), int(getattr(sources, "equivariants", 0)))
        if sources is not None and self.charge_scale != 1.0:
            raise ValueError(
                f"`sources` give physical charges: `charge_scale` must be 1, got {self.charge_scale}"
            )
        self.sources = sources
        self.responds = bool(getattr(sources, "responds", False))
        self.dipolar = bool(getattr(sources, "dipolar", False))
        self.quadrupolar = bool(getattr(sources, "quadrupolar", False))

    @torch.jit.unused
    def check_elements(self, numbers: Union[Sequence[int], np.ndarray]) -> None:
        """Raise `UnknownElementError` if an atomic number is not among the model's elements."""
        unknown = sorted(set(np.asarray(numbers).tolist()) - set(self.elements))
        if unknown:
            raise UnknownElementError(
                f"the model does not know {', '.join(symbol(z) for z in unknown)}; "
                f"it knows {', '.join(symbol(z) for z in self.elements)}"
            )

    @torch.jit.unused
    def evaluate(
        self,
        positions: np.ndarray,
        atomic_numbers: np.ndarray,
        cell: Optional[np.ndarray] = None,
        total_charge: Union[float, Sequence[float]] = 0,
        molecules: Optional[np.ndarray] = None,
        stress: bool = False,
        electric_field: Optional[Sequence[float]] = None,
    ) -> Evaluation:
        """Energy, forces and latent charges of one configuration, and its stress where asked for.

        Parameters
        ----------
        positions : [n_atoms, 3], Å
        atomic_numbers : [n_atoms]
        cell : [3, 3], Å, rows are vectors; None = isolated
        total_charge : e, of all atoms, or one per molecule; see `openmm_les.molecules`
        molecules : [n_atoms], index of each atom's molecule; None = bonded by covalent radii
        stress : also ``(1/V) dE/dstrain`` of the cell and all atoms with it; the pressure without its
            kinetic part is minus a third of the trace
        electric_field : [3], V/Å, uniform and external: adds ``-E · M`` of the total dipole, molecules whole
            (in a cell defined up to ``E · L`` times the charge of a molecule moved by the cell vector L)

        Raises
        ------
        UnknownElementError
            An element that the model was not trained on.
        ValueError
            A shape or value that cannot be used; charges that do not fit the molecules; the stress
            of an isolated system or in a field.
        """
        if stress and cell is None:
            raise ValueError("`stress=True` needs a `cell`: an isolated system has no volume")
        if stress and electric_field is not None:
            raise ValueError(
                "`stress=True` is not given in an `electric_field`: it depends on what is held fixed"
            )
        places = np.asarray(positions, dtype=np.float64)
        if electric_field is None and places.ndim == 2 and len(places):
            places = places - places.mean(0)  # before they become single
        graph = self.make_graph(places, atomic_numbers, cell, total_charge, molecules)
        if self.responds and electric_field is None and not stress:
            # Charges as functions of positions take a matrix that large systems have no memory for.
            electric_field = (0.0, 0.0, 0.0)
        if electric_field is not None:
            return evaluate_in_field(self, graph, np.asarray(electric_field, dtype=np.float64))
        return evaluate_graph(self, graph, stress)

    @torch.jit.unused
    def make_graph(
        self,
        positions: np.ndarray,
        atomic_numbers: np.ndarray,
        cell: Optional[np.ndarray] = None,
        total_charge: Union[float, Sequence[float]] = 0,
        molecules: Optional[np.ndarray] = None,
    ) -> Graph:
        """One configuration as the model reads it, in its dtype and on its device.

        Parameters and errors as in `evaluate`.
        """
        x = np.asarray(positions, dtype=np.float64)
        numbers = np.asarray(atomic_numbers)
        if x.ndim != 2 or x.shape[1] != 3 or len(x) == 0:
            raise ValueError(f"`positions` must have shape [n, 3], got {list(x.shape)}")
        if numbers.shape != x.shape[:1] or numbers.dtype.kind not in "iu":
            raise ValueError(
                f"`atomic_numbers` must be {len(x)} integers, "
                f"got shape {list(numbers.shape)} of {numbers.dtype}"
            )
        if not np.isfinite(x).all():
            raise ValueError("`positions` holds NaN or infinite values")
        self.check_elements(numbers)
        if cell is not None:
            cell = np.asarray(cell, dtype=np.float64)
            if cell.shape != (3, 3):
                raise ValueError(f"`cell` must have shape [3, 3], got {list(cell.shape)}")
            if not np.isfinite(cell).all():
                raise ValueError("`cell` holds NaN or infinite values")
            if not abs(np.linalg.det(cell)) > 1e-6 * np.linalg.norm(cell, axis=1).prod():
                raise ValueError("`cell` has no volume; use cell=None for an isolated system")
        bonds = np.empty((0, 2), dtype=np.int64)
        if molecules is None or np.size(total_charge) <= np.max(molecules):
            bonds = covalent_bonds(x, numbers, cell)
        if molecules is None:
            molecules = connected_molecules(bonds, len(numbers))
        molecules = np.asarray(molecules, dtype=np.int64)
        if molecules.shape != numbers.shape or molecules.min() < 0:
            raise ValueError(
                f"`molecules` must be {len(x)} indices from 0, got shape {list(molecules.shape)}"
            )
        if not np.isfinite(total_charge).all():
            raise ValueError("`total_charge` holds NaN or infinite values")
        charges = molecule_charges(numbers, molecules, total_charge, bonds)

        parameter = next(self.parameters())
        dtype, device = parameter.dtype, parameter.device
        return single_graph(
            torch.tensor(x, dtype=dtype, device=device),
            torch.tensor(numbers.astype(np.int64), device=device),
            None if cell is None else torch.tensor(cell, dtype=dtype, device=device),
            torch.tensor(molecules, device=device),
            torch.tensor(charges, dtype=dtype, device=device),
            self.cutoff,
        )


def check_equivariants(backbone: nn.Module, reader: type, wanted: int) -> None:
    """Raise ValueError where a class of sources reads equivariants that the backbone does not give."""
    given = int(getattr(backbone, "equivariants", 0))
    if wanted > given:
        what = "vectors" if given == 0 else "tensors"
        raise ValueError(
            f"{reader.__name__} reads {what}, which this {type(backbone).__name__} does not give; of "
            f"the built-in backbone ask for them by equivariants={wanted}"
        )
