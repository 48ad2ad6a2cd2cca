"""What `LESModel.evaluate` does with a configuration: energy, forces, stress as plain numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

import numpy as np
import torch
from torch import Tensor

from openmm_les.graph import Graph
from openmm_les.models.heads import NoCharges
from openmm_les.models.uniform_field import check_flow, external_energy, field_energy, field_of_graph

if TYPE_CHECKING:
    from openmm_les.models.model import LESModel

_NOT_FINITE = "energy or forces are not finite: do atoms of `positions` coincide?"


@dataclass(frozen=True)
class Evaluation:
    """What `LESModel.evaluate` returns: plain numbers and float64 arrays."""

    energy: float
    """eV, total, reference energies of the elements included"""
    forces: np.ndarray
    """[n_atoms, 3], eV/Å"""
    latent_charges: np.ndarray
    """[n_atoms], e"""
    energy_short_range: float
    """eV, reference energies included"""
    energy_long_range: float
    """eV"""
    charges: np.ndarray
    """[n_atoms], e, physical ones, see `LESModel.physical_charges`"""
    dipoles: np.ndarray
    """[n_atoms, 3], e·Å, of single atoms beside their charges; zeros for a model of charges alone"""
    stress: Optional[np.ndarray] = None
    """[3, 3], eV/Å³, +(1/V) dE/dstrain, where asked for"""
    energy_field: float = 0.0
    """eV, in an external electric field; part of ``energy``"""


def evaluate_graph(model: LESModel, graph: Graph, stress: bool = False) -> Evaluation:
    """Energy and forces of one configuration without a field, and its stress where asked for.

    Raises ValueError where they are not finite.
    """
    dtype, device = graph.positions.dtype, graph.positions.device
    with torch.enable_grad():
        places = graph.positions.requires_grad_(True)
        strain = torch.zeros((3, 3), dtype=dtype, device=device, requires_grad=stress)
        wanted = [places]
        if stress:
            wanted.append(strain)
            # Of a strain only the symmetric part deforms, the other turns.
            shape = torch.eye(3, dtype=dtype, device=device) + 0.5 * (strain + strain.t())
            graph = graph._replace(positions=places @ shape, cells=graph.cells @ shape)
        output = model(graph)
        energy = output.energy_short_range + output.energy_long_range
        gradient, *virial = torch.autograd.grad(energy.sum(), wanted)
    if not bool(torch.isfinite(energy).all() and torch.isfinite(gradient).all()):
        raise ValueError(_NOT_FINITE)
    return Evaluation(
        energy=float(energy.detach()[0]),
        forces=-_array(gradient),
        latent_charges=_array(output.latent_charges),
        energy_short_range=float(output.energy_short_range.detach()[0]),
        energy_long_range=float(output.energy_long_range.detach()[0]),
        charges=_array(model.physical_charges(output.latent_charges, graph)),
        dipoles=_array(output.latent_dipoles),
        stress=_array(virial[0]) / abs(np.linalg.det(_array(graph.cells[0]))) if stress else None,
    )


def evaluate_in_field(model: LESModel, graph: Graph, electric_field: np.ndarray) -> Evaluation:
    """The same in a field, [3] in V/Å, with the surrogate that simulations differentiate.

    Raises ValueError where `electric_field` is not three finite numbers, the model has no charges, or energy
    or forces are not finite.
    """
    if electric_field.shape != (3,) or not np.isfinite(electric_field).all():
        raise ValueError(f"`electric_field` must be three numbers in V/Å, got {electric_field.tolist()}")
    if electric_field.any() and isinstance(model.charge_module(), NoCharges):
        raise ValueError("`electric_field` acts on charges, which the model does not have")
    if electric_field.any() and bool((graph.cells != 0.0).any()):
        check_flow(model, len(torch.unique(graph.molecules)))
    uniform = field_of_graph(graph, torch.from_numpy(electric_field))
    with torch.enable_grad():
        places = graph.positions.requires_grad_(True)
        output = model(graph, False, uniform.external if model.responds else None)
        charges = model.physical_charges(output.latent_charges, graph)
        surrogate = output.energy_short_range.sum() + output.response
        if not model.responds:
            surrogate = surrogate + external_energy(uniform.external, charges, output.latent_dipoles)
        (response,) = torch.autograd.grad(surrogate, places)
    charges = charges.detach()
    gradient = response + output.gradients.detach() - charges.unsqueeze(1) * uniform.external.field
    short, long = (
        float(e.detach()[0]) for e in (output.energy_short_range, output.energy_long_range.double())
    )
    in_field = float(field_energy(uniform, charges, output.latent_dipoles))
    if not (math.isfinite(short + long + in_field) and bool(torch.isfinite(gradient).all())):
        raise ValueError(_NOT_FINITE)
    return Evaluation(
        energy=short + long + in_field,
        forces=-_array(gradient),
        latent_charges=_array(output.latent_charges),
        energy_short_range=short,
        energy_long_range=long,
        charges=_array(charges),
        dipoles=_array(output.latent_dipoles),
        energy_field=in_field,
    )


def _array(tensor: Tensor) -> np.ndarray:
    """The numbers of a tensor, float64."""
    return tensor.detach().double().cpu().numpy()
