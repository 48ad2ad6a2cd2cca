"""Where a model was trained: how far an atom's features lie from those of the training data.

A network says something about any structure. What tells a new one from those it learned from is the
distance in the space of its own features, after Lee et al., NeurIPS 2018 (arXiv:1807.03888): of
each element the training features have a mean and a covariance, and the Mahalanobis distance from
them grows with what the network has not seen. It costs a matrix product per atom.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List

import torch
from torch import Tensor, nn

from openmm_les.models.constants import element_index

QUANTILE = 0.9999
"""Share of the training atoms of an element whose novelty is below 1."""
NOVEL = 1.5
"""Novelty from which on an atom counts as outside of the training data."""
_SHRINKAGE = 1e-3  # of the mean variance, added to all: directions that hardly vary must not decide
_FEW = 20  # atoms of an element below which its own mean says nothing


class FeatureDomain(nn.Module):
    """Novelty of atoms: distance of their features from the training data's, relative to those'.

    Parameters
    ----------
    elements : atomic numbers, those of the model
    n_features : of its backbone
    """

    if TYPE_CHECKING:  # TorchScript cannot read such annotations
        index: Tensor
        means: Tensor
        whitening: Tensor

    def __init__(self, elements: List[int], n_features: int) -> None:
        super().__init__()
        self.settings = dict(elements=[int(z) for z in elements], n_features=n_features)
        self.n_elements = len(elements)
        self.register_buffer("index", element_index(elements), persistent=False)
        self.register_buffer("means", torch.zeros(len(elements), n_features))
        self.register_buffer("whitening", torch.zeros(len(elements), n_features, n_features))

    @torch.jit.unused
    def config(self) -> Dict[str, Any]:
        """Constructor arguments, JSON-ready."""
        return dict(self.settings)

    @torch.jit.unused
    def fit(self, features: Tensor, numbers: Tensor) -> None:
        """Take in the training data: ``features`` [n_atoms, n_features], ``numbers`` [n_atoms].

        Raises
        ------
        ValueError
            Features of another number, or fewer than 20 atoms.
        """
        if features.dim() != 2 or features.shape[1] != self.means.shape[1]:
            raise ValueError(
                f"`features` must have shape [n, {self.means.shape[1]}], got {list(features.shape)}"
            )
        if len(features) < _FEW:
            raise ValueError(f"{len(features)} atoms are too few to describe training data, want {_FEW}")
        species = self.index[numbers]
        overall = features.double().var(0, unbiased=False).mean()
        for i in range(self.n_elements):
            chosen = features[species == i].double()
            if len(chosen) < _FEW:
                chosen = features.double()
            mean = chosen.mean(0)
            centred = chosen - mean
            variances, directions = torch.linalg.eigh(centred.T @ centred / len(chosen))
            # An element whose atoms are all alike (a lone ion) varies by nothing; others say what is small.
            own = torch.maximum(variances.mean(), _SHRINKAGE * overall)
            floor = _SHRINKAGE * own + torch.finfo(torch.float32).tiny
            whitening = directions.T / torch.sqrt(variances.clamp(min=0.0) + floor).unsqueeze(1)
            lengths = torch.linalg.vector_norm(centred @ whitening.T, dim=1)
            lengths = lengths[:: 1 + len(lengths) // 1_000_000]  # more than quantile() takes
            reach = torch.quantile(lengths, QUANTILE).clamp(min=1.0)
            self.means[i] = mean.to(self.means.dtype)
            self.whitening[i] = (whitening / reach).to(self.whitening.dtype)

    def forward(self, features: Tensor, numbers: Tensor) -> Tensor:
        """Novelty of each atom, [n_atoms]: 1 where few training atoms went; see `NOVEL`."""
        species = self.index[numbers]
        novelty = torch.zeros_like(features[:, 0])
        for i in range(self.n_elements):
            chosen = torch.nonzero(species == i).squeeze(1)
            away = (features[chosen] - self.means[i]) @ self.whitening[i].t()
            novelty = novelty.index_copy(0, chosen, torch.sqrt((away * away).sum(1)))
        return novelty


__all__ = ["NOVEL", "QUANTILE", "FeatureDomain"]
