"""The force of an ML region among MM charges: model, and its charges in the others' potential.

One step evaluates the model, hands its physical charges (and dipoles and quadrupoles, where it has
them) to the coupling, and differentiates ``E_short + Σ (dE/dq_latent) q_latent + λ Σ Φ q_physical`` once: the
response of the charges to every position of the region is in the forces. A model that responds to
the MM charges gets their potential and field first, and has that response in its own.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from openmm_les.electrostatics import ChargeCoupling
from openmm_les.electrostatics.cross_pairs import cross_pairs
from openmm_les.engine.boundary import ForceBoundary
from openmm_les.engine.surroundings import CouplingSettings, Surroundings
from openmm_les.models.long_range import External
from openmm_les.models.model import LESModel
from openmm_les.models.uniform_field import external_energy, field_energy, superposed
from openmm_les.neighbors import perpendicular_widths
from openmm_les.units import ANGSTROM_PER_NM, KJ_PER_MOL_PER_EV, OPENMM_COULOMB_CONSTANT

LAMBDA_ELECTROSTATICS = "lambda_electrostatics"
"""Name of the global parameter that scales the energy between latent and MM charges."""


class Terms(NamedTuple):
    """Energies of an embedded region and the gradient of their sum."""

    short_range: Tensor
    """scalar, double, eV"""
    latent: Tensor
    """scalar, double, eV, of the latent charges (and multipoles) among themselves"""
    coupling: Tensor
    """scalar, double, eV, between physical and MM charges, at full strength"""
    charges: Tensor
    """[n_ml], e, physical"""
    dipoles: Tensor
    """[n_ml, 3], e·Å, of atoms"""
    gradient: Tensor
    """[n_ml, 3], double, eV/Å"""
    mm_gradient: Tensor
    """[n_mm, 3], double, eV/Å"""
    closest: Tensor
    """scalar, Å, from an ML atom to an MM charge without a core; infinite where none is in reach"""
    field: Tensor
    """scalar, double, eV, of the physical charges in the uniform external field; 0 without one"""


class EmbeddedBoundary(ForceBoundary):
    """Energy and forces of an ML region and of the MM charges that it meets.

    Parameters
    ----------
    model, numbers, molecules, molecule_charges, atoms, dtype : as `ForceBoundary`
    surroundings : the MM charges
    settings : of the coupling
    bonds : as `ForceBoundary`

    Raises
    ------
    UnknownElementError
        An element that the model was not trained on.
    """

    if TYPE_CHECKING:  # TorchScript cannot read such annotations
        mm_atoms: Tensor
        mm_charges: Tensor

    def __init__(
        self,
        model: LESModel,
        numbers: Sequence[int],
        molecules: Sequence[int],
        molecule_charges: Sequence[float],
        atoms: Sequence[int] | None,
        dtype: torch.dtype,
        surroundings: Surroundings,
        settings: CouplingSettings,
        bonds: Sequence[tuple[int, int]] = (),
    ) -> None:
        super().__init__(model, numbers, molecules, molecule_charges, atoms, dtype, None, bonds)
        self.register_buffer("mm_atoms", torch.tensor(surroundings.atoms, dtype=torch.int64))
        self.register_buffer("mm_charges", torch.tensor(surroundings.charges, dtype=torch.float64))
        self.coupling = ChargeCoupling(
            model.electrostatics.smearing,
            # OpenMM's own digits: the surroundings are its charges.
            OPENMM_COULOMB_CONSTANT * ANGSTROM_PER_NM / KJ_PER_MOL_PER_EV,
            settings.cutoff,
            settings.tolerance,
            settings.mm_smearing,
            surroundings.excluded,
            surroundings.excluded_shares,
            surroundings.bare,
            dtype,
            model.quadrupolar,
        )
        self.term_names = ["short_range", "long_range", "ml_mm_electrostatics"]
        self.narrow_box = (
            "openmm-les: the box became narrower than twice the cutoff of the electrostatic coupling; make "
            "the system with a shorter CouplingSettings(cutoff=...); `openmm-les simulate --resume` does"
        )
        self.guard_distance = settings.guard_distance
        self.warned = False

    def embedded(
        self,
        positions: Tensor,
        box: Tensor | None,
        electrostatics: Tensor | None,
        interpolate: Tensor | None,
        electric_field: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Energy (kJ/mol, double scalar) and forces ([n_particles, 3], kJ/mol/nm, contiguous).

        Parameters
        ----------
        positions : [n_particles, 3], nm
        box : [3, 3], nm, rows are vectors; None = isolated
        electrostatics : scalar factor of what latent and MM charges do to each other; None = 1
        interpolate : scalar factor of everything; None = 1. At 0 the model is not run.
        electric_field : [3], V/nm, uniform, external; None = no field. MM charges feel it elsewhere
        """
        scale = 1.0 if interpolate is None else float(interpolate)
        strength = 1.0 if electrostatics is None else float(electrostatics)
        energy = torch.zeros((), dtype=torch.float64, device=positions.device)
        gradient = torch.zeros((self.atoms.shape[0], 3), dtype=torch.float64, device=positions.device)
        mm_gradient = torch.zeros((self.mm_atoms.shape[0], 3), dtype=torch.float64, device=positions.device)
        if scale != 0.0:
            terms = self.terms(positions, box, strength, electric_field)
            energy = terms.short_range + terms.latent + strength * terms.coupling + terms.field
            gradient, mm_gradient = terms.gradient, terms.mm_gradient
            if strength == 1.0 or not self.model.responds:
                self.latest_charges, self.latest_dipoles = terms.charges, terms.dipoles
                self.latest_terms = self.stacked(terms, electric_field is not None)
            else:  # both would be other ones than at full strength
                self.latest_charges = torch.zeros_like(terms.charges[:0])
            self.guard(float(terms.closest))
        return self.joined(positions, scale, energy, gradient, mm_gradient)

    @torch.jit.export
    def joined(
        self, positions: Tensor, scale: float, energy: Tensor, gradient: Tensor, mm_gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What `embedded` returns, of an energy (eV) and its gradients (eV/Å) at full strength, in double."""
        everywhere = torch.zeros(positions.shape, dtype=torch.float64, device=positions.device)
        everywhere.index_copy_(0, self.mm_atoms, mm_gradient)
        everywhere.index_copy_(0, self.atoms, gradient)
        forces = everywhere * (-scale * self.energy_factor * self.length_factor)
        return scale * energy * self.energy_factor, forces.to(positions.dtype).contiguous()

    @torch.jit.export
    def meet(
        self, positions: Tensor, box: Tensor | None, charges: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Energy, potential, gradient, gradient on MM charges and closest approach: see `Coupling`.

        ``charges`` [n_ml] in e, physical; ``positions`` and ``box`` as in `embedded`.
        """
        with torch.no_grad():
            few, many, cell = self.sides(positions, box)
            met = self.coupling(few, charges, many, self.mm_charges, cell)
            found = (met.energy, met.potential, met.gradient, met.point_gradient, met.closest)
        return found

    @torch.jit.export
    def energy_terms(
        self, positions: Tensor, box: Tensor | None, electric_field: Tensor | None = None
    ) -> Tensor:
        """Terms of the energy at full strength, [n_terms] double in kJ/mol, named by ``term_names``."""
        terms = self.terms(positions, box, 1.0, electric_field)
        return self.stacked(terms, electric_field is not None) * self.energy_factor

    @torch.jit.export
    def moments(
        self, positions: Tensor, box: Tensor | None, electric_field: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As of `ForceBoundary`, at full strength among the MM charges; arguments as in `embedded`."""
        if self.model.responds:
            terms = self.terms(positions, box, 1.0, electric_field)
            charges, dipoles = terms.charges, terms.dipoles
        else:
            graph = self.graph_of(positions, box)
            with torch.no_grad():
                charges, dipoles = self.model.moments(graph)
                charges, dipoles = charges.clone(), dipoles.clone()
        return charges, dipoles

    def sides(self, positions: Tensor, box: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """ML atoms ([n_ml, 3]), MM charges ([n_mm, 3]) and the cell, double in Å."""
        with torch.no_grad():
            cell: Tensor | None = None
            if box is not None:
                cell = box.to(torch.float64) * self.length_factor
            everywhere = positions.to(torch.float64) * self.length_factor
            few, many = everywhere.index_select(0, self.atoms), everywhere.index_select(0, self.mm_atoms)
        return few, many, cell

    def stacked(self, terms: Terms, with_field: bool) -> Tensor:
        """The energies of terms, [3 or 4], double, eV, in the order of ``term_names``."""
        found = [terms.short_range, terms.latent, terms.coupling]
        if with_field:
            found.append(terms.field)
        return torch.stack(found)

    @torch.jit.export
    def closest_bare(self, positions: Tensor, box: Tensor | None) -> Tensor:
        """Least distance of a watched MM charge to an ML atom, scalar in nm; infinite beyond 0.5 nm."""
        with torch.no_grad():
            reach = 0.5
            few = positions.index_select(0, self.atoms).to(torch.float64)
            watched = self.mm_atoms.index_select(0, self.coupling.watched)
            many = positions.index_select(0, watched).to(torch.float64)
            if box is None:
                distances = torch.cdist(few, many).view(-1)
            else:
                vectors = cross_pairs(few, many, box.to(torch.float64), reach)[2]
                distances = torch.linalg.norm(vectors, dim=1)
            none = torch.full((1,), math.inf, dtype=torch.float64, device=positions.device)
            closest = torch.cat((distances[distances < reach], none)).min()
        return closest

    def terms(
        self,
        positions: Tensor,
        box: Tensor | None,
        strength: float,
        electric_field: Tensor | None = None,
    ) -> Terms:
        """Each energy, and the gradient of ``short_range + latent + strength * coupling + field``.

        Arguments as in `embedded`; gradients at fixed ``strength``.
        """
        graph = self.graph_of(positions, box)
        few, many, cell = self.sides(positions, box)
        external: External | None = None
        if self.model.responds:
            with torch.no_grad():
                felt = self.coupling(few, None, many, self.mm_charges, cell)
                external = External(
                    strength * felt.potential.to(self.dtype), strength * felt.field.to(self.dtype)
                )
        uniform = self.field_at(positions, box, electric_field)
        if self.model.responds and uniform is not None:
            external = superposed(external, uniform.external)
        prediction = self.model(graph, False, external)
        physical = self.model.physical_charges(prediction.latent_charges, graph)
        short = prediction.energy_short_range.sum()
        with torch.no_grad():
            # Clones, because TorchForce freezes the script and freezing drops detach().
            charges = physical.clone()
            dipoles: Tensor | None = None
            if self.model.dipolar:
                dipoles = prediction.latent_dipoles.clone()
            quadrupoles = prediction.latent_quadrupoles
            if quadrupoles is not None:
                quadrupoles = quadrupoles.clone()
            met = self.coupling(few, charges, many, self.mm_charges, cell, dipoles, quadrupoles)
            potential = strength * met.potential.to(charges.dtype)
            field = strength * met.field.to(charges.dtype)
        surrogate = short + prediction.response
        if not self.model.responds:  # else the response holds what follows from the external potential
            surrogate = surrogate + (potential * physical).sum()
            if self.model.dipolar:
                surrogate = surrogate - (field * prediction.latent_dipoles).sum()
            if uniform is not None:
                of_field = external_energy(uniform.external, physical, prediction.latent_dipoles)
                surrogate = surrogate + of_field
        moving = prediction.latent_quadrupoles
        if moving is not None:  # in no model's response: they follow the geometry alone
            surrogate = surrogate + 0.5 * strength * (met.curvature.to(self.dtype) * moving).sum()
        response = torch.autograd.grad([surrogate], [graph.positions])[0]
        assert response is not None  # narrows the type for TorchScript
        with torch.no_grad():
            gradient = (response + prediction.gradients).to(torch.float64) + strength * met.gradient
            latent = prediction.energy_long_range.to(torch.float64).sum()
            in_field = torch.zeros_like(latent)
            if uniform is not None:
                in_field = field_energy(uniform, charges, prediction.latent_dipoles)
                gradient = gradient - (charges.unsqueeze(1) * uniform.external.field).to(torch.float64)
            result = Terms(
                short.clone(),
                latent.clone(),
                met.energy,
                charges,
                prediction.latent_dipoles.clone(),
                gradient.clone(),
                strength * met.point_gradient,
                met.closest,
                in_field,
            )
        return result

    def guard(self, closest: float) -> None:
        """Warn, once, where an MM charge without a core is closer than the guard allows."""
        if closest < self.guard_distance and not self.warned:
            self.warned = True
            warnings.warn(  # noqa: B028  TorchScript knows no stack level
                "openmm-les: an MM charge without Lennard-Jones came closer to an ML atom than the guard "
                "distance: the region may be over-polarised. Minimise with mechanical embedding first, or "
                "set CouplingSettings(mm_smearing=...)"
            )


# Errors are raised in `forward` itself: with the error in an inner method, torch looks for a call stack
# in code that freezing has released, and the process dies instead of reporting.


class PeriodicEmbedded(EmbeddedBoundary):
    """`EmbeddedBoundary` for periodic systems."""

    periodic = True
    whole = True

    def forward(
        self,
        positions: Tensor,
        box: Tensor,
        lambda_electrostatics: Tensor | None = None,
        lambda_interpolate: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `EmbeddedBoundary.embedded`; raises RuntimeError where the energy cannot be known."""
        if not bool(torch.isfinite(positions).all()):
            raise RuntimeError(self.bad_positions)
        narrowest = float(perpendicular_widths(box.to(torch.float64)).min()) * self.length_factor
        if narrowest < 2.0 * self.coupling.cutoff:
            raise RuntimeError(self.narrow_box)
        energy, forces = self.embedded(positions, box, lambda_electrostatics, lambda_interpolate)
        if not bool(torch.isfinite(energy)):
            raise RuntimeError(self.bad_energy)
        return energy, forces


class IsolatedEmbedded(EmbeddedBoundary):
    """`EmbeddedBoundary` for systems without periodic images."""

    periodic = False
    whole = True

    def forward(
        self,
        positions: Tensor,
        lambda_electrostatics: Tensor | None = None,
        lambda_interpolate: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `EmbeddedBoundary.embedded`; raises RuntimeError where the energy is not finite."""
        if not bool(torch.isfinite(positions).all()):
            raise RuntimeError(self.bad_positions)
        energy, forces = self.embedded(positions, None, lambda_electrostatics, lambda_interpolate)
        if not bool(torch.isfinite(energy)):
            raise RuntimeError(self.bad_energy)
        return energy, forces


__all__ = ["LAMBDA_ELECTROSTATICS", "EmbeddedBoundary", "IsolatedEmbedded", "PeriodicEmbedded", "Terms"]
