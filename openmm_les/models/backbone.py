"""What every short-range backbone gives: energies and features of atoms."""

from __future__ import annotations

from typing import NamedTuple, Optional

from torch import Tensor


class BackboneOutput(NamedTuple):
    """Result of a backbone's ``forward(graph: Graph)``.

    A backbone is any ``nn.Module`` with that signature and the attributes ``cutoff`` (float, Å)
    and ``n_features`` (int). It must be invariant to translation, rotation and permutation, and
    smooth where a pair crosses the cutoff; nothing else is asked of it.

    Latent dipoles need vectors, and quadrupoles tensors: a backbone that gives them says so by
    ``equivariants`` (int, 1 or 2) and their number of channels by ``n_equivariants`` (int).

    One that reads pairs by `openmm_les.graph.pair_rows` alone, and asks a GPU for no
    number on the way, says so by ``reads_rows`` (True): CUDA graphs then make it several times faster.
    What atoms and charges decide for good, as counts of elements, it can see to in
    ``fix_atoms(numbers, molecule_charges)``, which is called before a simulation.
    """

    energies: Tensor
    """[n_atoms], eV, short-range energy of each atom without its element's reference energy"""
    features: Tensor
    """[n_atoms, n_features], invariant description of each atom, read by the charge head"""
    vectors: Optional[Tensor] = None
    """[n_atoms, n_equivariants, 3], Cartesian, turn (and are inverted) with the atoms"""
    tensors: Optional[Tensor] = None
    """[n_atoms, n_equivariants, 3, 3], Cartesian, symmetric and traceless, turn with the atoms"""
