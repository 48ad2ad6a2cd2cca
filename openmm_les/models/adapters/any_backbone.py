"""Latent charges for a short-range potential of the user's own."""

from __future__ import annotations

from typing import Callable, List, Optional, Tuple

import torch
from torch import Tensor, nn

from openmm_les.electrostatics import LatentCoulomb
from openmm_les.graph import Graph, pair_vectors
from openmm_les.models.backbone import BackboneOutput
from openmm_les.models.heads import LatentChargeHead
from openmm_les.models.model import LESModel


class PairBackbone(nn.Module):
    """Backbone around a module that knows nothing of graphs.

    Parameters
    ----------
    module : ``(positions [n, 3] Å, numbers [n] int64, pairs [2, n_pairs] int64, vectors [n_pairs, 3] Å)
        -> (energies [n] eV, features [n, n_features])``. ``pairs`` holds centre and neighbour of every
        directed pair within the cutoff, ``vectors`` leads from centre to neighbour across periodic
        borders and must be what the result depends on where there are any. Energies are without the
        elements' reference energies. A batch comes as one list of atoms; no pair joins two
        configurations
    cutoff : Å
    n_features : of the features

    Notes
    -----
    For OpenMM the module must compile to TorchScript; evaluation, training and ASE run it eagerly.
    """

    def __init__(self, module: nn.Module, cutoff: float, n_features: int) -> None:
        super().__init__()
        self.module = module
        self.cutoff = float(cutoff)
        self.n_features = int(n_features)

    def forward(self, graph: Graph) -> BackboneOutput:
        """Energies and features of a graph's atoms."""
        pairs = torch.stack([graph.centers, graph.neighbors])
        energies, features = self.module(graph.positions, graph.numbers, pairs, pair_vectors(graph))
        return BackboneOutput(energies, features)


def add_latent_charges(
    backbone: nn.Module,
    elements: List[int],
    *,
    reference_energies: Optional[List[float]] = None,
    smearing: float = 1.0,
    freeze_backbone: bool = False,
) -> LESModel:
    """Model of a short-range backbone, a new charge head and a Coulomb sum.

    Charges start from the elements' electronegativities; train the model, on forces at least, before
    using it. With a short-range part that was trained alone the sum of both counts electrostatics
    twice at first.

    Parameters
    ----------
    backbone : as `BackboneOutput` describes; see `PairBackbone` for others
    elements : atomic numbers it knows
    reference_energies : eV per atom of each element
    smearing : Å, of the latent charges
    freeze_backbone : only the charge head is to be trained; False leaves the backbone as it comes

    Raises
    ------
    TypeError
        The backbone lacks `cutoff` or `n_features`.
    """
    for name in ("cutoff", "n_features"):
        if not isinstance(getattr(backbone, name, None), (int, float)):
            raise TypeError(f"a backbone needs the number `{name}`; {type(backbone).__name__} has none")
    head = LatentChargeHead(elements, int(backbone.n_features))  # type: ignore[arg-type]
    parameter = next(backbone.parameters(), None)
    if parameter is not None:
        head = head.to(parameter.device, parameter.dtype)
    model = LESModel(backbone, head, LatentCoulomb(smearing), list(elements), reference_energies)
    if parameter is not None:
        model.to(parameter.device)
    if freeze_backbone:
        model.backbone.requires_grad_(False)
    check_backbone(model)
    return model


def check_backbone(model: LESModel) -> None:
    """Raise ValueError unless a model's backbone does what every part relies on.

    Tried on two small clusters of its elements: shapes and dtypes, a batch that equals its parts,
    invariance to translation, rotation and the order of atoms, energies that depend on positions.
    """
    parameter = next(model.parameters())
    generator = torch.Generator().manual_seed(1)
    numbers = [int(model.elements[i % len(model.elements)]) for i in range(7)]
    side = torch.arange(2, dtype=torch.float64)
    corners = 1.6 * torch.cartesian_prod(side, side, side)[:7]
    places = corners + 0.2 * torch.rand(7, 3, dtype=torch.float64, generator=generator)
    places = places.to(parameter.device, parameter.dtype)

    turned = places[:, [1, 2, 0]]  # by 120° about the diagonal

    def run(
        order: List[int], shift: float, parts: List[int], places: Tensor = places
    ) -> Tuple[Tuple[Tensor, Tensor], Tensor]:
        with parameter.device:
            graph = _clusters(places[order] + shift, [numbers[i] for i in order], parts, model.cutoff)
        with torch.enable_grad():
            graph = graph._replace(positions=graph.positions.requires_grad_(True))
            output = model.backbone(graph)
            for name, value, shape in (
                ("energies", output[0], (len(order),)),
                ("features", output[1], (len(order), model.backbone.n_features)),
            ):
                if tuple(value.shape) != shape or value.dtype != parameter.dtype:
                    raise ValueError(
                        f"the backbone's {name} must be {list(shape)} of {parameter.dtype}, "
                        f"got {list(value.shape)} of {value.dtype}"
                    )
            (gradient,) = torch.autograd.grad(output[0].sum() + 0.0 * graph.positions.sum(), graph.positions)
        return (output[0].detach(), output[1].detach()), gradient

    order = [4, 2, 6, 0, 3, 5, 1]
    whole, gradient = run(list(range(7)), 0.0, [7])
    if not bool((gradient != 0.0).any()):
        raise ValueError("the backbone's energies do not depend on positions in a way that torch can follow")
    near: Callable[[Tensor, Tensor], bool] = lambda a, b: torch.allclose(a, b, rtol=1e-3, atol=1e-4)  # noqa: E731
    moved, _ = run(list(range(7)), 1.7, [7])
    mixed, _ = run(order, 0.0, [7])
    rotated, _ = run(list(range(7)), 0.0, [7], turned)
    for name, k in (("energies", 0), ("features", 1)):
        if not near(moved[k], whole[k]):
            raise ValueError(f"the backbone's {name} change when all atoms are moved together")
        if not near(rotated[k], whole[k]):
            raise ValueError(f"the backbone's {name} change when all atoms are turned together")
        if not near(mixed[k], whole[k][order]):
            raise ValueError(f"the backbone's {name} depend on the order of atoms")
    both, _ = run(list(range(7)), 0.0, [4, 3])
    alone, _ = run(list(range(4)), 0.0, [4])
    for name, k in (("energies", 0), ("features", 1)):
        if not near(both[k][:4], alone[k]):
            raise ValueError(f"the backbone's {name} of one configuration depend on others in the batch")


def _clusters(positions: Tensor, numbers: List[int], parts: List[int], cutoff: float) -> Graph:
    """Batch of isolated configurations of ``parts`` atoms each."""
    owner = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor(parts))
    distances = torch.linalg.norm(positions.unsqueeze(0) - positions.unsqueeze(1), dim=-1)
    near = (distances < cutoff) & (owner.unsqueeze(0) == owner.unsqueeze(1))
    near.fill_diagonal_(False)
    centers, neighbors = torch.nonzero(near, as_tuple=True)
    return Graph(
        positions,
        torch.tensor(numbers),
        centers,
        neighbors,
        positions.new_zeros((len(centers), 3)),
        positions.new_zeros((len(parts), 3, 3)),
        torch.tensor([0, *torch.tensor(parts).cumsum(0).tolist()]),
        owner,
        positions.new_zeros(len(parts)),
    )


__all__ = ["PairBackbone", "add_latent_charges", "check_backbone"]
