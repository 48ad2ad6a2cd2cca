"""Functions of distance in MACE: basis, cutoff, distance transforms, pair repulsion."""

from __future__ import annotations

from typing import TYPE_CHECKING, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from openmm_les.models.constants import ExactConstants


def polynomial_cutoff(ratio: Tensor, power: float) -> Tensor:
    """Falls from 1 at 0 to 0 at 1, 0 beyond; Gasteiger et al., ICLR 2020, eq. 8, p = ``power``."""
    x = ratio.clamp(max=1.0)
    p = power
    return (
        1.0
        - 0.5 * (p + 1.0) * (p + 2.0) * torch.pow(x, p)
        + p * (p + 2.0) * torch.pow(x, p + 1.0)
        - 0.5 * p * (p + 1.0) * torch.pow(x, p + 2.0)
    )


class RadialFunctions(ExactConstants):
    """Radial basis of pairs, and the cutoff that multiplies what is made of it.

    Parameters
    ----------
    cutoff : Å
    power : of the polynomial cutoff
    basis : "bessel": ``√(2/rc) sin(w r)/r``; "gaussian": ``exp(-(r - w)²/2s²)``
    n_functions : number of w, which are weights
    width : s in Å, of "gaussian"
    transform : of the distances before the basis: "none"; "agnesi" or "soft", scaled by covalent radii
    parameters : a, q, p of "agnesi" (Witt et al., J. Chem. Phys. 159, 164101 (2023)); alpha of "soft"
    radii : Å, of each element, read by the transforms
    early : the cutoff multiplies the basis; else the radial network's output
    """

    if TYPE_CHECKING:  # TorchScript cannot read such annotations
        centers: Tensor
        radii: Tensor

    def __init__(
        self,
        cutoff: float,
        power: float,
        basis: str,
        n_functions: int,
        width: float = 1.0,
        transform: str = "none",
        parameters: Sequence[float] = (),
        radii: Sequence[float] = (),
        early: bool = True,
    ) -> None:
        super().__init__()
        self.cutoff = float(cutoff)
        self.power = float(power)
        self.is_bessel = basis == "bessel"
        self.scale = (2.0 / cutoff) ** 0.5 if self.is_bessel else -0.5 / width**2
        self.transform = transform
        # Three numbers whatever the transform is: TorchScript compiles the branches not taken, too.
        self.parameters_of_transform = [float(p) for p in (*parameters, 0.0, 0.0, 0.0)][:3]
        self.early = early
        self.register_buffer("centers", torch.zeros(n_functions))
        self.register_constant("radii", torch.tensor(list(radii) or [0.0], dtype=torch.float64))

    def forward(self, distances: Tensor, first: Tensor, second: Tensor) -> Tuple[Tensor, Tensor]:
        """Basis [n, k, n_functions] and late cutoff [n, k, 1].

        ``distances`` [n, k] in Å, ``first`` and ``second`` element indices that broadcast to [n, k].
        """
        end = polynomial_cutoff(distances / self.cutoff, self.power).unsqueeze(-1)
        r = distances
        if self.transform == "agnesi":
            a, q, p = self.parameters_of_transform
            ratio = 2.0 * r / (self.radii[first] + self.radii[second])
            r = 1.0 / (1.0 + a * torch.pow(ratio, q) / (1.0 + torch.pow(ratio, q - p)))
        elif self.transform == "soft":
            bond = self.radii[first] + self.radii[second]
            low, high = 0.75 * bond, 4.0 / 3.0 * bond
            steepness = self.parameters_of_transform[0] / (high - low)
            r = low + (r - low) * 0.5 * (1.0 + torch.tanh(steepness * (r - 0.5 * (low + high))))
        r = r.unsqueeze(-1)
        if self.is_bessel:
            values = self.scale * torch.sin(self.centers * r) / r
        else:
            values = torch.exp(self.scale * (r - self.centers) ** 2)
        if self.early:
            return values * end, torch.ones_like(end)
        return values, end


class PairRepulsion(ExactConstants):
    """Screened nuclear repulsion (Ziegler, Biersack, Littmark) that ends at the summed radii.

    Parameters
    ----------
    numbers, radii : atomic number and covalent radius (Å) of each element
    power : of the polynomial cutoff
    weights : of the four exponentials
    exponent, length : screening length ``length · 0.529 Å / (Z₁^exponent + Z₂^exponent)``
    factor : on the energy
    """

    if TYPE_CHECKING:  # TorchScript cannot read such annotations
        screening: Tensor
        strength: Tensor
        reach: Tensor
        weights: Tensor
        rates: Tensor

    def __init__(
        self,
        numbers: List[int],
        radii: List[float],
        power: float,
        weights: List[float],
        exponent: float,
        length: float,
        factor: Optional[float] = None,
    ) -> None:
        super().__init__()
        z = torch.tensor(numbers, dtype=torch.float64)
        r = torch.tensor(radii, dtype=torch.float64)
        self.power = float(power)
        powers = z**exponent
        self.register_constant("screening", length * 0.529 / (powers.view(-1, 1) + powers))
        # 0.5: each pair is listed from both of its atoms.
        half = 0.5 if factor is None else 0.5 * factor
        self.register_constant("strength", half * 14.3996 * z.view(-1, 1) * z)
        self.register_constant("reach", r.view(-1, 1) + r)
        self.register_constant("weights", torch.tensor(weights, dtype=torch.float64))
        self.register_constant("rates", torch.tensor([3.2, 0.9423, 0.4028, 0.2016], dtype=torch.float64))

    def forward(self, distances: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Half of each pair's energy, eV, shape of ``distances``; arguments as in `RadialFunctions`."""
        x = (distances / self.screening[first, second]).unsqueeze(-1)
        screened = (self.weights * torch.exp(-self.rates * x)).sum(-1)
        end = polynomial_cutoff(distances / self.reach[first, second], self.power)
        return self.strength[first, second] * screened * end / distances


__all__ = ["PairRepulsion", "RadialFunctions", "polynomial_cutoff"]
