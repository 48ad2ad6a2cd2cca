"""Latent charges, dipoles and quadrupoles, and dipoles that they and others induce."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Tuple, cast

import torch
from torch import Tensor, nn

from openmm_les.electrostatics import LatentCoulomb, PolarizableMultipoles
from openmm_les.graph import Graph, atoms_of, cell_of
from openmm_les.models.backbone import BackboneOutput
from openmm_les.models.heads import LatentChargeHead, NoCharges
from openmm_les.models.long_range import External, LongRange
from openmm_les.models.model import LESModel, check_equivariants
from openmm_les.models.multipole_heads import GatedSum, InversePolarizability

POLARIZABILITIES = ("", "isotropic", "tensor")
INDUCTIONS = ("mutual", "direct")


class Moments(NamedTuple):
    """Permanent moments of atoms, and how polarizable they are."""

    charges: Tensor
    """[n_atoms], e"""
    dipoles: Tensor
    """[n_atoms, 3], e·Å"""
    quadrupoles: Optional[Tensor]
    """[n_atoms, 3, 3], e·Å², traceless; None without"""
    inverse: Optional[Tensor]
    """[n_atoms, 3, 3], eV/(e Å)², inverse polarizabilities; None without"""


class MultipoleSources(nn.Module):
    """Charges from features, dipoles and quadrupoles from equivariants, induced dipoles from fields.

    Parameters
    ----------
    elements : atomic numbers
    n_features, n_equivariants : of the backbone; see `BackboneOutput`
    dipoles : latent dipoles, from the backbone's vectors
    quadrupoles : latent quadrupoles, from its tensors
    polarizability : "" = none, "isotropic" or "tensor" (from the backbone's tensors), positive
        definite and bounded, see `InversePolarizability`
    induction : "mutual": induced dipoles feel each other; "direct": permanent moments and external
        fields alone, in one shot
    n_hidden : width of the networks
    charge_gain : see `LatentChargeHead`
    electrostatics : the model's Coulomb sum, for smearing and numerics

    Raises
    ------
    ValueError
        An unknown kind of polarizability or induction; nothing but charges asked for; a Coulomb sum
        with a sharp cut or self interaction.

    Notes
    -----
    The energy is stationary in the induced dipoles, so that its derivatives need none of theirs; where
    something external polarises too, that holds for the sum of both. `responds`, because induced
    dipoles must be found in the external field.
    """

    def __init__(
        self,
        elements: List[int],
        n_features: int,
        n_equivariants: int,
        dipoles: bool = True,
        quadrupoles: bool = False,
        polarizability: str = "",
        induction: str = "mutual",
        n_hidden: int = 32,
        charge_gain: float = 0.1,
        electrostatics: Optional[LatentCoulomb] = None,
    ) -> None:
        super().__init__()
        if polarizability not in POLARIZABILITIES:
            raise ValueError(f"`polarizability` must be '', 'isotropic' or 'tensor', got {polarizability!r}")
        if induction not in INDUCTIONS:
            raise ValueError(f"`induction` must be one of {', '.join(INDUCTIONS)}, got {induction!r}")
        if not (dipoles or quadrupoles or polarizability):
            raise ValueError("these sources would be charges alone: a model needs no `sources` for them")
        self.settings = dict(
            elements=[int(z) for z in elements],
            n_features=n_features,
            n_equivariants=n_equivariants,
            dipoles=dipoles,
            quadrupoles=quadrupoles,
            polarizability=polarizability,
            induction=induction,
            n_hidden=n_hidden,
            charge_gain=charge_gain,
        )
        coulomb = LatentCoulomb() if electrostatics is None else electrostatics
        self.responds = polarizability != ""
        self.dipolar = dipoles or self.responds
        self.quadrupolar = quadrupoles
        self.equivariants = rank_read(dipoles, quadrupoles, polarizability)
        self.charge_head = LatentChargeHead(elements, n_features, n_hidden, charge_gain)
        self.hidden = nn.Linear(n_features, n_hidden)
        self.dipole_head = GatedSum(n_hidden, n_equivariants, charge_gain) if dipoles else None
        self.quadrupole_head = GatedSum(n_hidden, n_equivariants, charge_gain) if quadrupoles else None
        of_tensors = n_equivariants if polarizability == "tensor" else 0
        self.polarizability_head = (
            InversePolarizability(elements, n_hidden, of_tensors, coulomb.smearing, coulomb.coulomb_constant)
            if polarizability
            else None
        )
        self.electrostatics = PolarizableMultipoles(coulomb, induction == "mutual")

    @torch.jit.unused
    def config(self) -> Dict[str, Any]:
        """Constructor arguments but the Coulomb sum, JSON-ready."""
        return dict(self.settings)

    def permanent(self, atoms: BackboneOutput, graph: Graph) -> Moments:
        """Permanent moments and polarizabilities, differentiable."""
        vectors, tensors = atoms.vectors, atoms.tensors
        charges = self.charge_head(atoms.features, graph.numbers, graph.molecules, graph.molecule_charges)
        hidden = nn.functional.silu(self.hidden(atoms.features))
        dipoles = torch.zeros_like(graph.positions)
        quadrupoles: Optional[Tensor] = None
        inverse: Optional[Tensor] = None
        dipole_head = self.dipole_head
        if dipole_head is not None:
            assert vectors is not None  # `LESModel` has checked what the backbone gives
            dipoles = dipole_head(hidden, vectors)
        quadrupole_head = self.quadrupole_head
        if quadrupole_head is not None:
            assert tensors is not None
            quadrupoles = quadrupole_head(hidden, tensors)
        polarizability_head = self.polarizability_head
        if polarizability_head is not None:
            inverse = polarizability_head(hidden, graph.numbers, tensors)
        return Moments(charges, dipoles, quadrupoles, inverse)

    def forward(
        self, atoms: BackboneOutput, graph: Graph, differentiable: bool, external: Optional[External]
    ) -> LongRange:
        """See `LongRange`; the response to ``external`` through permanent moments is in ``response``."""
        moments = self.permanent(atoms, graph)
        places, held = graph.positions, moments
        if not differentiable:
            with torch.no_grad():
                places, held = graph.positions.clone(), _constant(moments)
        energies: List[Tensor] = []
        potentials: List[Tensor] = []
        fields: List[Tensor] = []
        curvatures: List[Tensor] = []
        gradients: List[Tensor] = []
        induced: List[Tensor] = []
        for i in range(graph.cells.shape[0]):
            begin, end = atoms_of(graph, i)
            field: Optional[Tensor] = None
            if external is not None:
                field = external.field[begin:end]
            found = self.electrostatics(
                places[begin:end],
                held.charges[begin:end],
                held.dipoles[begin:end],
                _part(held.quadrupoles, begin, end),
                _part(held.inverse, begin, end),
                cell_of(graph, i),
                field,
                differentiable,
            )
            energies.append(found.energy)
            potentials.append(found.sums.potential)
            fields.append(found.sums.field)
            curvature = found.sums.curvature
            if curvature is not None:
                curvatures.append(curvature)
            gradients.append(found.sums.gradient)
            induced.append(found.induced)
        dipoles = torch.cat(induced)
        with torch.no_grad():
            potential, field_at, still = torch.cat(potentials), torch.cat(fields), dipoles.clone()
            if external is not None:
                potential, field_at = potential + external.potential, field_at + external.field
            potential, field_at = potential.clone(), field_at.clone()
        response = (potential * moments.charges).sum() - (field_at * moments.dipoles).sum()
        quadrupoles, inverse = moments.quadrupoles, moments.inverse
        if quadrupoles is not None:
            with torch.no_grad():
                constant = torch.cat(curvatures).clone()
            response = response + 0.5 * (constant * quadrupoles).sum()
        if inverse is not None:
            response = response + 0.5 * (still * torch.einsum("iab,ib->ia", inverse, still)).sum()
        return LongRange(
            torch.stack(energies),
            moments.charges,
            moments.dipoles + dipoles,
            response,
            torch.cat(gradients),
            quadrupoles,
        )

    @torch.jit.export
    def moments(self, atoms: BackboneOutput, graph: Graph) -> Tuple[Tensor, Tensor]:
        """Charges and dipoles, permanent and induced, without an external field; differentiable."""
        moments = self.permanent(atoms, graph)
        dipoles = moments.dipoles
        if moments.inverse is not None:
            induced: List[Tensor] = []
            for i in range(graph.cells.shape[0]):
                begin, end = atoms_of(graph, i)
                found = self.electrostatics(
                    graph.positions[begin:end],
                    moments.charges[begin:end],
                    moments.dipoles[begin:end],
                    _part(moments.quadrupoles, begin, end),
                    _part(moments.inverse, begin, end),
                    cell_of(graph, i),
                    None,
                    moments.charges.requires_grad,
                )
                induced.append(found.induced)
            dipoles = dipoles + torch.cat(induced)
        return moments.charges, dipoles


def rank_read(dipoles: bool, quadrupoles: bool, polarizability: str) -> int:
    """Highest rank of equivariants that such `MultipoleSources` read."""
    return 2 if quadrupoles or polarizability == "tensor" else int(dipoles)


def add_multipoles(model: LESModel, **settings: Any) -> None:
    """Give a model of charges, trained or not, multipoles and polarizabilities beside them, in place.

    Its charge head goes on; the rest is to be trained.

    Parameters
    ----------
    model : with a `LatentChargeHead`
    settings : ``dipoles``, ``quadrupoles``, ``polarizability``, ``induction`` of `MultipoleSources`

    Raises
    ------
    ValueError
        Another kind of charges, a scale of the charges, or a backbone that cannot give what is read.
    """
    head, backbone = model.charge_head, model.backbone
    if not isinstance(head, LatentChargeHead) or model.sources is not None:
        kind = type(head if model.sources is None else model.sources).__name__
        raise ValueError(f"multipoles can be added to charges of a LatentChargeHead, these are of {kind}")
    rank = rank_read(
        settings.get("dipoles", True), settings.get("quadrupoles", False), settings.get("polarizability", "")
    )
    give = getattr(backbone, "give_equivariants", None)
    if give is not None:
        give(rank)
    check_equivariants(backbone, MultipoleSources, rank)
    sources = MultipoleSources(
        model.elements,
        cast(int, backbone.n_features),
        int(getattr(backbone, "n_equivariants", 0)),
        n_hidden=head.hidden.out_features,
        charge_gain=head.gain,
        electrostatics=model.electrostatics,
        **settings,
    )
    model.set_sources(sources.to(next(head.parameters())))
    sources.charge_head = head
    model.charge_head = NoCharges()


def _part(values: Optional[Tensor], begin: int, end: int) -> Optional[Tensor]:
    """Rows of what may be absent."""
    if values is None:
        return None
    return values[begin:end]


def _constant(moments: Moments) -> Moments:
    """Clones for use under no_grad: freezing a script drops detach()."""
    quadrupoles, inverse = moments.quadrupoles, moments.inverse
    if quadrupoles is not None:
        quadrupoles = quadrupoles.clone()
    if inverse is not None:
        inverse = inverse.clone()
    return Moments(moments.charges.clone(), moments.dipoles.clone(), quadrupoles, inverse)


__all__ = ["INDUCTIONS", "POLARIZABILITIES", "Moments", "MultipoleSources", "add_multipoles"]
