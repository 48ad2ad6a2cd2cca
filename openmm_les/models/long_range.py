"""The long-range part of a model as a piece of its own: what a source module takes and gives.

By default a model's charge head says the charges, and a Coulomb sum their energy. A module in the
place `LESModel.sources` decides both instead: charges that equilibrate, dipoles, induced ones.
"""

# Annotations are evaluated here: TorchScript cannot follow their text in Optional[External].
from typing import NamedTuple, Optional

from torch import Tensor


class External(NamedTuple):
    """Potential of charges that are not the model's, at its atoms.

    Constants to autograd, except where a response to them is asked for (`polarizability`).
    """

    potential: Tensor
    """[n_atoms], eV/e; a physical charge q has the energy q times it"""
    field: Tensor
    """[n_atoms, 3], eV/(e Å), minus its gradient; a physical dipole u has the energy -u · field"""


class LongRange(NamedTuple):
    """What a source module finds: ``forward(atoms: BackboneOutput, graph: Graph, differentiable: bool,
    external: Optional[External])``.

    Modules have the attribute ``responds`` (bool: charges or dipoles follow an external potential,
    which then must be given before; all that it does to forces beside its gradient at fixed moments is
    then in ``response``, nothing for what it makes stationary), ``dipolar`` and ``quadrupolar`` (bool: there
    are dipoles, quadrupoles; these respond to nothing, and what an external potential does to them is not
    in ``response``),
    ``equivariants`` (rank of the `BackboneOutput` that it reads), the method ``moments(atoms, graph)``
    for physical charges and dipoles without an external potential (differentiable where gradients are
    recorded), and ``config()`` for checkpoints: the arguments of the constructor except
    ``electrostatics``, the model's own Coulomb sum, which it is given. Attributes that are missing are
    False or 0.
    """

    energies: Tensor
    """[n_configurations], eV, of the sources among themselves and of making them; the energy in the
    external potential is not in it"""
    charges: Tensor
    """[n_atoms], e, latent"""
    dipoles: Tensor
    """[n_atoms, 3], e·Å, latent; zeros where there are none"""
    response: Tensor
    """scalar, eV; see `Prediction.response`"""
    gradients: Tensor
    """[n_atoms, 3], eV/Å; see `Prediction.gradients`"""
    quadrupoles: Optional[Tensor] = None
    """[n_atoms, 3, 3], e·Å², latent, symmetric second moments; None where there are none"""


__all__ = ["External", "LongRange"]
