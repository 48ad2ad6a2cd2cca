"""Radial pieces shared by backbones: basis, envelope, short-range repulsion."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, List

import torch
from torch import Tensor

from openmm_les.elements import covalent_radii
from openmm_les.models.constants import ExactConstants

# Ziegler, Biersack, Littmark, The Stopping and Range of Ions in Solids (1985).
_ZBL_WEIGHTS = (0.18175, 0.50986, 0.28022, 0.02817)
_ZBL_EXPONENTS = (3.19980, 0.94229, 0.40290, 0.20162)
_BOHR = 0.529177210903


def envelope(ratio: Tensor) -> Tensor:
    """Polynomial that falls from 1 at 0 to 0 at 1 with two smooth derivatives at 1, 0 beyond.

    ``1 - 28 x⁶ + 48 x⁷ - 21 x⁸``: Gasteiger et al., ICLR 2020 (arXiv:2003.03123), eq. 8, p = 6.
    """
    x = ratio.clamp(max=1.0)
    x2 = x * x
    x6 = x2 * x2 * x2
    return 1.0 - x6 * (28.0 - x * (48.0 - 21.0 * x))


class BesselBasis(ExactConstants):
    """``√(2/rc) sin(nπ r/rc)/r`` for n = 1 … n_functions; Gasteiger et al. (2020), eq. 7.

    Input any shape, Å; output with one more dimension [n_functions].
    """

    if TYPE_CHECKING:  # TorchScript cannot read such annotations
        frequencies: Tensor

    def __init__(self, n_functions: int, cutoff: float) -> None:
        super().__init__()
        frequencies = math.pi / cutoff * torch.arange(1, n_functions + 1, dtype=torch.float64)
        self.register_constant("frequencies", frequencies)
        self.norm = math.sqrt(2.0 / cutoff)

    def forward(self, distances: Tensor) -> Tensor:
        r = distances.unsqueeze(-1)
        return self.norm * torch.sin(r * self.frequencies) / r


class NuclearRepulsion(ExactConstants):
    """Screened nuclear repulsion (ZBL) that ends smoothly at 0.8 times the summed covalent radii.

    Or at ``cutoff`` (Å), beyond which no pairs are listed.

    It keeps atoms apart where no training data reach, and leaves bonds to the network. Input:
    distances [...] in Å and element indices [...] of both atoms; output [...] in eV, the energy
    of the pair.
    """

    if TYPE_CHECKING:  # TorchScript cannot read such annotations
        screening: Tensor
        reach: Tensor
        strength: Tensor
        weights: Tensor
        exponents: Tensor

    def __init__(
        self, elements: List[int], cutoff: float = math.inf, coulomb_constant: float = 14.399645
    ) -> None:
        super().__init__()
        z = torch.tensor(elements, dtype=torch.float64)
        radii = torch.tensor([covalent_radii[e] for e in elements], dtype=z.dtype)
        screening = 0.8854 * _BOHR / (z.view(-1, 1) ** 0.23 + z.view(1, -1) ** 0.23)
        self.register_constant("screening", screening)
        reach = 0.8 * (radii.view(-1, 1) + radii.view(1, -1))
        self.register_constant("reach", reach.clamp(max=cutoff))
        self.register_constant("strength", coulomb_constant * z.view(-1, 1) * z.view(1, -1))
        self.register_constant("weights", torch.tensor(_ZBL_WEIGHTS, dtype=z.dtype))
        self.register_constant("exponents", torch.tensor(_ZBL_EXPONENTS, dtype=z.dtype))

    def forward(self, distances: Tensor, first: Tensor, second: Tensor) -> Tensor:
        x = (distances / self.screening[first, second]).unsqueeze(-1)
        screened = (self.weights * torch.exp(-self.exponents * x)).sum(-1)
        end = envelope(distances / self.reach[first, second])
        return self.strength[first, second] * screened * end / distances
