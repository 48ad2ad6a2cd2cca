"""The one place where nm and kJ/mol meet Å and eV: positions and box in, energy and forces out.

`PeriodicForce` and `IsolatedForce` are what every route into OpenMM runs. They differ in nothing
but their signature, because OpenMM passes box vectors only where a force is periodic.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from openmm_les.electrostatics import LatentCoulomb, image_sum
from openmm_les.engine.references import MoleculeReferences
from openmm_les.graph import Graph
from openmm_les.models.long_range import External
from openmm_les.models.model import LESModel
from openmm_les.models.uniform_field import UniformField, external_energy, field_energy, uniform_field
from openmm_les.pairs import make_pairs
from openmm_les.units import ANGSTROM_PER_NM, COULOMB_CONSTANT, KJ_PER_MOL_PER_EV

PRECISIONS = {"single": torch.float32, "double": torch.float64}
LAMBDA_INTERPOLATE = "lambda_interpolate"
"""Name of the global parameter that scales the ML energy, the one that openmm-ml uses."""


class ForceBoundary(nn.Module):
    """Energy and forces of the ML atoms of an OpenMM system.

    Subclasses add ``forward`` and say by ``periodic`` whether it takes a box.

    Parameters
    ----------
    model : copied, its weights cast to ``dtype``
    numbers : [n_ml], atomic numbers of the ML atoms
    molecules : [n_ml], index of each ML atom's molecule
    molecule_charges : [n_molecules], e
    atoms : [n_ml], indices of the ML atoms among the particles; None = all particles
    dtype : of the model's arithmetic; sums of energies are in double always
    image_charges : [n_ml], e, charges of a force field that counts what they feel of their periodic
        images, to be taken out here because latent charges have images of their own
    bonds : pairs of ML atoms (indices into ``numbers``), by which an electric field finds molecules
        whole; needed in a box only

    Raises
    ------
    UnknownElementError
        An element that the model was not trained on.
    """

    if TYPE_CHECKING:  # TorchScript cannot read such annotations
        periodic: bool
        atoms: Tensor
        numbers: Tensor
        molecules: Tensor
        molecule_charges: Tensor
        image_charges: Tensor
        offsets: Tensor

    trial_parameters: ClassVar[tuple[float, ...]] = ()
    """Of `forward`, for comparing compiled forms."""
    whole: ClassVar[bool] = False
    """Whether `openmm_les.engine.cuda_graphs` knows all that adds to the model's energy."""

    def __init__(
        self,
        model: LESModel,
        numbers: Sequence[int],
        molecules: Sequence[int],
        molecule_charges: Sequence[float],
        atoms: Sequence[int] | None = None,
        dtype: torch.dtype = torch.float32,
        image_charges: Sequence[float] | None = None,
        bonds: Sequence[tuple[int, int]] = (),
    ) -> None:
        super().__init__()
        model.check_elements(np.asarray(numbers))
        self.model = copy.deepcopy(model)
        self.model.requires_grad_(False)
        self.model.fold()
        fix_atoms = getattr(self.model.backbone, "fix_atoms", None)
        if fix_atoms is not None:
            fix_atoms(torch.tensor(list(numbers)), torch.tensor(list(molecule_charges)))
        self.model.to("cpu", dtype)
        self.pairs = make_pairs(model.cutoff, len(numbers))
        self.dtype = dtype
        self.length_factor = ANGSTROM_PER_NM
        self.energy_factor = KJ_PER_MOL_PER_EV
        self.coulomb_constant = COULOMB_CONSTANT
        self.term_names = ["short_range", "long_range"]
        self.bad_positions = "openmm-les: positions hold NaN or infinite values"
        self.bad_energy = (
            "openmm-les: the ML energy is not finite. Do atoms overlap? Minimise first, or use a smaller "
            "time step"
        )
        # What the last evaluation found, for reporters to take up: charges in e, terms in eV.
        self.latest_charges = torch.zeros(0)
        self.latest_dipoles = torch.zeros(0, 3)
        self.latest_terms = torch.zeros(0, dtype=torch.float64)
        indices = range(len(numbers)) if atoms is None else atoms
        self.register_buffer("atoms", torch.tensor(list(indices), dtype=torch.int64))
        self.register_buffer("numbers", torch.tensor(list(numbers), dtype=torch.int64))
        self.register_buffer("molecules", torch.tensor(list(molecules), dtype=torch.int64))
        charges = torch.tensor(list(molecule_charges), dtype=torch.float64)
        self.register_buffer("molecule_charges", charges.to(dtype))
        self.has_images = image_charges is not None
        counted = [0.0] * len(numbers) if image_charges is None else image_charges
        self.register_buffer("image_charges", torch.tensor(list(counted), dtype=torch.float64))
        self.register_buffer("offsets", torch.tensor([0, len(numbers)]))
        self.references = MoleculeReferences(molecules, bonds)
        self.replayable = (
            self.whole
            and model.sources is None
            and bool(getattr(model.backbone, "reads_rows", False))
            and isinstance(model.electrostatics, LatentCoulomb)
            and model.electrostatics.method in ("auto", "pme")
        )
        """Whether a CUDA graph may stand for the model, see `openmm_les.engine.cuda_graphs`"""
        self.eval()

    def compute(
        self,
        positions: Tensor,
        box: Tensor | None,
        strength: Tensor | None,
        electric_field: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Energy (kJ/mol, double scalar) and forces ([n_particles, 3], kJ/mol/nm, contiguous).

        Parameters
        ----------
        positions : [n_particles, 3], nm
        box : [3, 3], nm, rows are vectors; None = isolated
        strength : scalar factor of the model's energy and forces; None = 1. At 0 it is not run.
        electric_field : [3], V/nm, uniform, external; None = no field
        """
        # One exit: TorchScript fails on an early return in front of a `with` block.
        scale = 1.0 if strength is None else float(strength)
        energy = torch.zeros((), dtype=torch.float64, device=positions.device)
        gradient = torch.zeros((self.atoms.shape[0], 3), dtype=torch.float64, device=positions.device)
        if scale != 0.0:
            of_model, gradient_of_model = self.energy_and_gradient(
                self.graph_of(positions, box), self.field_at(positions, box, electric_field), None
            )
            energy = scale * of_model
            gradient = scale * gradient_of_model.to(torch.float64)
        if self.has_images and box is not None:
            of_images, gradient_of_images = self.images(positions, box)
            energy = energy - of_images
            gradient = gradient - gradient_of_images
        return self.assembled(positions, energy, gradient)

    @torch.jit.export
    def assembled(self, positions: Tensor, energy: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """What `compute` returns, of an energy (eV) and its gradient ([n_ml, 3], eV/Å), both double."""
        total = gradient * (-self.energy_factor * self.length_factor)
        # A force that is not contiguous would be read wrongly, and silently, by TorchForce.
        forces = torch.zeros_like(positions)
        forces = forces.index_copy(0, self.atoms, total.to(positions.dtype)).contiguous()
        return energy * self.energy_factor, forces

    @torch.jit.export
    def images(self, positions: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        """Energy (eV) of ``image_charges`` with their periodic images, and its gradient (eV/Å)."""
        with torch.no_grad():
            r = positions.index_select(0, self.atoms).to(torch.float64) * self.length_factor
            cell = box.to(torch.float64) * self.length_factor
            energy, gradient = image_sum(r - r[0], self.image_charges, cell, self.coulomb_constant)
        return energy, gradient

    @torch.jit.export
    def energy_and_gradient(
        self, graph: Graph, uniform: UniformField | None, potential: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Energy (eV, double scalar) and its gradient ([n_ml, 3], eV/Å), charge response included.

        Of the long-range energy only the part that flows through the charges is differentiated
        (by a surrogate energy with constant potentials); the part at fixed charges is known. So it is
        with the energy in a field.
        ``potential`` ([n_ml], V) adds what it does to the charges' response, and no energy.
        """
        external: External | None = None
        if uniform is not None and self.model.responds:
            external = uniform.external
        prediction = self.model(graph, False, external)
        short = prediction.energy_short_range.sum()
        energy = short + prediction.energy_long_range.to(torch.float64).sum()
        surrogate = short + prediction.response
        physical = self.model.physical_charges(prediction.latent_charges, graph)
        if uniform is not None and not self.model.responds:
            # Charges that respond to the field have this in their `response`.
            surrogate = surrogate + external_energy(uniform.external, physical, prediction.latent_dipoles)
        if potential is not None:
            surrogate = surrogate + (potential * physical).sum()
        with torch.no_grad():
            # Clones, because TorchForce freezes the script and freezing drops detach().
            energy = energy.clone()
            gradients = prediction.gradients.clone()
            charges = physical.clone()
            terms = [short.clone(), energy - short]
            if uniform is not None:
                of_field = field_energy(uniform, charges, prediction.latent_dipoles)
                gradients = gradients - charges.unsqueeze(1) * uniform.external.field
                energy = energy + of_field
                terms.append(of_field)
            self.latest_charges = charges
            self.latest_dipoles = prediction.latent_dipoles.clone()
            self.latest_terms = torch.stack(terms).clone()
        response = torch.autograd.grad([surrogate], [graph.positions])[0]
        assert response is not None  # narrows the type for TorchScript
        return energy, response + gradients

    @torch.jit.export
    def charges_of(self, graph: Graph) -> Tensor:
        """Physical charges, [n_ml] in e, without a field."""
        with torch.no_grad():
            charges = self.model.moments(graph)[0].clone()
        return charges

    def field_at(
        self, positions: Tensor, box: Tensor | None, electric_field: Tensor | None
    ) -> UniformField | None:
        """An electric field ([3], V/nm) at the ML atoms; None without one. Arguments as in `compute`."""
        uniform: UniformField | None = None
        if electric_field is not None:
            with torch.no_grad():
                r = positions.index_select(0, self.atoms).to(torch.float64) * self.length_factor
                cell: Tensor | None = None
                if box is not None:
                    cell = box.to(torch.float64) * self.length_factor
                places, moment = self.references(r, cell, self.molecule_charges)
                # Parameters of a Context come on the CPU, wherever the positions are.
                strength = electric_field.to(r.device).to(torch.float64) / self.length_factor
                uniform = uniform_field(strength, places, moment, self.molecule_charges)
        return uniform

    @torch.jit.export
    def moments(
        self, positions: Tensor, box: Tensor | None, electric_field: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Physical charges, [n_ml] in e, and dipoles of atoms, [n_ml, 3] in e·Å.

        Without an energy where that can be; arguments as in `compute`.
        """
        graph = self.graph_of(positions, box)
        uniform = self.field_at(positions, box, electric_field)
        with torch.no_grad():
            if uniform is not None and self.model.responds:
                prediction = self.model(graph, False, uniform.external)
                charges = self.model.physical_charges(prediction.latent_charges, graph)
                dipoles = prediction.latent_dipoles
            else:
                charges, dipoles = self.model.moments(graph)
            charges, dipoles = charges.clone(), dipoles.clone()
        return charges, dipoles

    @torch.jit.export
    def novelty(self, positions: Tensor, box: Tensor | None) -> Tensor:
        """How far the atoms lie from the training data, [n_ml]; see `LESModel.novelty`."""
        with torch.no_grad():
            novelty = self.model.novelty(self.graph_of(positions, box))
        return novelty

    @torch.jit.export
    def energy_terms(
        self, positions: Tensor, box: Tensor | None, electric_field: Tensor | None = None
    ) -> Tensor:
        """Terms of the energy at full strength, [n_terms] double in kJ/mol, named by ``term_names``.

        Arguments as in `compute`; that of the field is there where there is one.
        """
        graph = self.graph_of(positions, box)
        uniform = self.field_at(positions, box, electric_field)
        with torch.no_grad():
            external: External | None = None
            if uniform is not None and self.model.responds:
                external = uniform.external
            prediction = self.model(graph, False, external)
            long_range = prediction.energy_long_range.to(torch.float64)
            terms = [prediction.energy_short_range.sum(), long_range.sum()]
            if uniform is not None:
                charges = self.model.physical_charges(prediction.latent_charges, graph)
                terms.append(field_energy(uniform, charges, prediction.latent_dipoles))
        return torch.stack(terms) * self.energy_factor

    @torch.jit.export
    def places(self, positions: Tensor) -> Tensor:
        """The ML atoms of ``positions`` ([n_particles, 3], nm), [n_ml, 3] in Å, double."""
        return positions.index_select(0, self.atoms).to(torch.float64) * self.length_factor

    @torch.jit.export
    def centred(self, r: Tensor, cell: Tensor | None, inverse: Tensor | None) -> tuple[Tensor, Tensor]:
        """Places ([n_ml, 3], Å, double) around the origin, in one image of the cell, and what was taken off.

        In double until then: OpenMM lets molecules drift far out. ``cell`` and its ``inverse`` are [3, 3]
        in Å and 1/Å; what was taken off, [n_ml, 3], counts whole cell vectors (0 without a cell).
        """
        if cell is None or inverse is None:
            return r - r[0], torch.zeros_like(r)
        # In steps of 4 Å, so that the origin of a mesh stays where it is while atoms move: its error
        # depends on it, and forces would no longer be the derivative of the energy.
        r = r - 4.0 * torch.round(r[0] / 4.0)
        images = torch.round(r @ inverse)
        return r - images @ cell, images

    @torch.jit.export
    def graph_of(self, positions: Tensor, box: Tensor | None) -> Graph:
        """Graph of the ML atoms in Å, positions ready for derivatives; arguments as in `compute`."""
        with torch.no_grad():
            r = self.places(positions)
            cells = torch.zeros((1, 3, 3), dtype=torch.float64, device=r.device)
            if box is None:
                centers, neighbors, shifts = self.pairs(r, None)
                r = self.centred(r, None, None)[0]
            else:
                cell = box.to(torch.float64) * self.length_factor
                centers, neighbors, shifts = self.pairs(r, cell)
                r, images = self.centred(r, cell, torch.linalg.inv(cell))
                shifts = shifts + images[neighbors] - images[centers]
                cells = cell.unsqueeze(0)
            r = r.to(self.dtype).clone()
        r.requires_grad_(True)
        return Graph(
            r,
            self.numbers,
            centers,
            neighbors,
            shifts.to(self.dtype),
            cells.to(self.dtype),
            self.offsets,
            self.molecules,
            self.molecule_charges,
            periodic=box is not None,
        )


# Both raise in `forward` itself: with the error in an inner method, torch looks for a call stack in
# code that freezing has released, and the process dies instead of reporting.


class PeriodicForce(ForceBoundary):
    """`ForceBoundary` for periodic systems."""

    periodic = True
    whole = True

    def forward(
        self, positions: Tensor, box: Tensor, lambda_interpolate: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `ForceBoundary.compute`; raises RuntimeError where the energy is not finite."""
        if not bool(torch.isfinite(positions).all()):
            raise RuntimeError(self.bad_positions)
        energy, forces = self.compute(positions, box, lambda_interpolate)
        if not bool(torch.isfinite(energy)):
            raise RuntimeError(self.bad_energy)
        return energy, forces


class IsolatedForce(ForceBoundary):
    """`ForceBoundary` for systems without periodic images."""

    periodic = False
    whole = True

    def forward(self, positions: Tensor, lambda_interpolate: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `ForceBoundary.compute`; raises RuntimeError where the energy is not finite."""
        if not bool(torch.isfinite(positions).all()):
            raise RuntimeError(self.bad_positions)
        energy, forces = self.compute(positions, None, lambda_interpolate)
        if not bool(torch.isfinite(energy)):
            raise RuntimeError(self.bad_energy)
        return energy, forces


__all__ = ["LAMBDA_INTERPOLATE", "PRECISIONS", "ForceBoundary", "IsolatedForce", "PeriodicForce"]
