"""Heads: latent charges from features, conserved molecule by molecule."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Dict, List

import torch
from torch import Tensor, nn

from openmm_les.elements import PAULING_ELECTRONEGATIVITY
from openmm_les.models.constants import element_index


def starting_charge(number: int) -> float:
    """Charge an element starts from, ``-0.35 e (χ - 2.5)`` with Pauling's χ; 0 where χ is unknown.

    The energy is quadratic in the charges, so that zero is a stationary point: a head that starts
    there stays there, and the sign of all charges stays undecided.
    """
    electronegativity = PAULING_ELECTRONEGATIVITY.get(number)
    return 0.0 if electronegativity is None else -0.35 * (electronegativity - 2.5)


def conserve_charge(charges: Tensor, weights: Tensor, molecules: Tensor, molecule_charges: Tensor) -> Tensor:
    """Shift charges so that every molecule carries its known charge.

    ``q_i + (Q_m - Σ_m q) w_i / Σ_m w`` over the atoms of molecule m: neutral molecules stay
    neutral whatever else is in the box, so that they interact by their multipoles only.

    Parameters
    ----------
    charges : [n_atoms], e
    weights : [n_atoms], positive; who takes how much of the missing charge
    molecules : [n_atoms], int64 index into molecule_charges
    molecule_charges : [n_molecules], e

    Returns
    -------
    [n_atoms], e
    """
    totals = torch.zeros_like(molecule_charges).index_add(0, molecules, charges)
    norms = torch.zeros_like(molecule_charges).index_add(0, molecules, weights)
    # A molecule of which the batch holds no atom has norm 0 and is never looked up.
    return charges + weights * ((molecule_charges - totals) / norms)[molecules]


class LatentChargeHead(nn.Module):
    """Latent charges from atomic features.

    A small network adds to a per-element start value; a second output, positive, says how the
    charge that a molecule still lacks is shared among its atoms.

    Parameters
    ----------
    elements : atomic numbers
    n_features : of the backbone
    n_hidden : width of the network
    gain : e, by which its output counts; the larger, the faster charges learn
    """

    if TYPE_CHECKING:  # TorchScript cannot read such annotations
        index: Tensor
        element_charge: Tensor

    def __init__(self, elements: List[int], n_features: int, n_hidden: int = 32, gain: float = 0.1) -> None:
        super().__init__()
        if not 0.0 < gain < math.inf:
            raise ValueError(f"`gain` must be positive, got {gain}")
        self.settings = dict(
            elements=[int(z) for z in elements], n_features=n_features, n_hidden=n_hidden, gain=gain
        )
        self.gain = float(gain)
        self.register_buffer("index", element_index(elements), persistent=False)
        # Fixed, and the network starts silent and at a small gain: while forces are still wrong
        # everywhere, training would push free charges through zero to a sign of its own.
        base = torch.tensor([starting_charge(e) for e in elements])
        self.register_buffer("element_charge", base)
        self.hidden = nn.Linear(n_features, n_hidden)
        self.output = nn.Linear(n_hidden, 2)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    @torch.jit.unused
    def config(self) -> Dict[str, Any]:
        """Constructor arguments, JSON-ready."""
        return dict(self.settings)

    def forward(
        self, features: Tensor, numbers: Tensor, molecules: Tensor, molecule_charges: Tensor
    ) -> Tensor:
        """[n_atoms] in e from ``features`` [n_atoms, n_features]; see `conserve_charge`."""
        output = self.output(nn.functional.silu(self.hidden(features)))  # [n_atoms, 2]
        charges = self.element_charge[self.index[numbers]] + self.gain * output[:, 0]
        weights = nn.functional.softplus(output[:, 1]) + 1e-3
        return conserve_charge(charges, weights, molecules, molecule_charges)


class NoCharges(nn.Module):
    """The head of a model without latent charges: short-range energies are all there is."""

    @torch.jit.unused
    def config(self) -> Dict[str, Any]:
        """Constructor arguments, JSON-ready."""
        return {}

    def forward(
        self, features: Tensor, numbers: Tensor, molecules: Tensor, molecule_charges: Tensor
    ) -> Tensor:
        """Zeros, [n_atoms]."""
        return torch.zeros_like(features[:, 0])


__all__ = ["LatentChargeHead", "NoCharges", "conserve_charge", "starting_charge"]
