"""The charge of an atom's own molecule among what a backbone knows of the atom."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openmm_les.models.heads import conserve_charge


class ChargeEmbedding(nn.Module):
    r"""What the charge of a molecule adds to the scalars of its atoms; nothing for a neutral molecule.

    The charge is shared among the molecule's atoms, ``s_i = Q w_i / Σ w`` with positive weights w from
    their scalars. Each share adds ``|s_i| (A x_i + a)`` to the scalars x_i, with one matrix A and vector a
    for cations and one for anions: energies and features then depend on it as they do on surroundings.

    Parameters
    ----------
    n_channels : of the scalars

    Notes
    -----
    After Unke et al., Nat. Commun. 12, 7273 (2021), who embed total charge (and spin, which is not known
    here) by attention over all atoms; here over those of one molecule, so that what else is in a box
    plays no part. It starts silent, with equal shares; what is added is proportional to Q on either side
    of 0, and so continuous through it.

    Size consistency: neutral molecules and whole molecules far apart are treated alone. Within one
    charged molecule the shares add up over all of it, however far its atoms are from each other: an
    inert part takes some of the charge unless the weights have learned that it does not. Opposite
    charges within one molecule (zwitterions) are a neutral molecule.
    """

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.weight = nn.Linear(n_channels, 1)
        self.cation = nn.Linear(n_channels, n_channels)
        self.anion = nn.Linear(n_channels, n_channels)
        self.silence()

    @torch.jit.unused
    def silence(self) -> None:
        """Zero all weights: equal shares that add nothing."""
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def shares(self, scalars: Tensor, molecules: Tensor, molecule_charges: Tensor) -> Tensor:
        """Parts of molecules' charges, [n_atoms] in e, from ``scalars`` [n_atoms, n_channels]."""
        weights = nn.functional.softplus(self.weight(scalars)).squeeze(-1) + 1e-3
        return conserve_charge(torch.zeros_like(weights), weights, molecules, molecule_charges)

    def forward(self, scalars: Tensor, molecules: Tensor, molecule_charges: Tensor) -> Tensor:
        """What is added to ``scalars``, [n_atoms, n_channels].

        ``molecules`` [n_atoms], int64 index into ``molecule_charges`` [n_molecules], e.
        """
        share = self.shares(scalars, molecules, molecule_charges).unsqueeze(-1)
        positive, negative = torch.relu(share), torch.relu(-share)
        return positive * self.cation(scalars) + negative * self.anion(scalars)


__all__ = ["ChargeEmbedding"]
