"""Models as TorchScript files for engines that know nothing of this package."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any, Dict, List, Tuple, Union

import torch
from torch import Tensor, nn

from openmm_les.graph import Graph
from openmm_les.models.model import LESModel
from openmm_les.neighbors import all_pairs

DESCRIPTION = "openmm-les.json"
"""Name of the description among the file's extra files."""
FORMAT_VERSION = 2
SIGNATURE = {
    "inputs": [
        ["positions", "[n_atoms, 3]", "angstrom"],
        ["numbers", "[n_atoms] int64", "atomic numbers"],
        ["cell", "[3, 3], rows are vectors; zeros: isolated", "angstrom"],
        ["pairs", "[2, n_pairs] int64: centre and neighbour of every directed pair within `cutoff`", ""],
        ["shifts", "[n_pairs, 3]: pair vector = r[neighbour] + shifts @ cell - r[centre]", "cell vectors"],
        ["molecules", "[n_atoms] int64, index into molecule_charges", ""],
        ["molecule_charges", "[n_molecules]", "e"],
    ],
    "outputs": [
        ["energy", "scalar, double, reference energies of the elements included", "eV"],
        ["forces", "[n_atoms, 3]", "eV/angstrom"],
        ["stress", "[3, 3], +(1/V) dE/dstrain; zeros where isolated", "eV/angstrom^3"],
        ["latent_charges", "[n_atoms], as they enter the model's Coulomb sum", "e"],
        ["charges", "[n_atoms], as they meet other charges and make dipoles", "e"],
        ["dipoles", "[n_atoms, 3], of single atoms beside their charges; zeros without", "e*angstrom"],
    ],
    "methods": {"neighbours(positions, cell) -> (pairs, shifts)": "all of them, by testing every pair"},
    "attributes": {"cutoff": "angstrom", "elements": "atomic numbers"},
}


class ExportedModel(nn.Module):
    """A model with tensors in and out, its derivatives taken inside; see `SIGNATURE`."""

    def __init__(self, model: LESModel, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.model.fold()
        self.model.to("cpu", dtype)
        self.cutoff = model.cutoff
        self.elements = [int(z) for z in model.elements]
        self.dtype = dtype
        self.eval()

    def forward(
        self,
        positions: Tensor,
        numbers: Tensor,
        cell: Tensor,
        pairs: Tensor,
        shifts: Tensor,
        molecules: Tensor,
        molecule_charges: Tensor,
    ) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Energy, forces, stress, latent and physical charges, dipoles, as in `SIGNATURE`."""
        order = torch.argsort(pairs[0], stable=True)  # models read pairs sorted by centre
        places = positions.detach().to(self.dtype).clone().requires_grad_(True)
        strain = torch.zeros((3, 3), dtype=self.dtype, device=places.device).requires_grad_(True)
        shape = torch.eye(3, dtype=self.dtype, device=places.device) + 0.5 * (strain + strain.t())
        graph = Graph(
            torch.matmul(places, shape),
            numbers,
            pairs[0][order],
            pairs[1][order],
            shifts.to(self.dtype)[order],
            torch.matmul(cell.to(self.dtype), shape).unsqueeze(0),
            torch.tensor([0, places.shape[0]], device=places.device),
            molecules,
            molecule_charges.to(self.dtype),
        )
        output = self.model(graph)
        energy = (output.energy_short_range + output.energy_long_range).sum()
        found = torch.autograd.grad([energy], [places, strain], allow_unused=True)
        gradient, virial = found[0], found[1]
        assert gradient is not None and virial is not None  # narrows the types for TorchScript
        volume = torch.abs(torch.linalg.det(cell.to(self.dtype)))
        periodic = (volume > 0.0).to(self.dtype)
        stress = periodic * virial / torch.clamp(volume, min=1e-30) * periodic
        charges = self.model.physical_charges(output.latent_charges, graph)
        return (
            energy.detach().to(torch.float64),
            -gradient.contiguous(),
            stress,
            output.latent_charges.detach(),
            charges.detach(),
            output.latent_dipoles.detach(),
        )

    @torch.jit.export
    def neighbours(self, positions: Tensor, cell: Tensor) -> Tuple[Tensor, Tensor]:
        """Pairs [2, n_pairs] and shifts [n_pairs, 3] for `forward`; quadratic in the number of atoms."""
        if bool((cell == 0.0).all()):
            centers, neighbors, shifts = all_pairs(positions, None, self.cutoff)
        else:
            centers, neighbors, shifts = all_pairs(positions, cell.to(positions.dtype), self.cutoff)
        return torch.stack([centers, neighbors]), shifts


def export_model(model: LESModel, path: Union[str, Path], *, precision: str = "double") -> Dict[str, Any]:
    """Write a model as a TorchScript file with its description inside.

    Parameters
    ----------
    model : its parts must compile to TorchScript
    path : file to write, as .pt
    precision : "single" or "double" arithmetic of the model

    Returns
    -------
    The description, which ``torch.jit.load(path, _extra_files={"openmm-les.json": ""})`` gives again

    Raises
    ------
    ValueError
        An unknown precision, or a part that does not compile.
    """
    dtypes = {"single": torch.float32, "double": torch.float64}
    if precision not in dtypes:
        raise ValueError(f"`precision` must be one of {', '.join(dtypes)}, got {precision!r}")
    description: Dict[str, Any] = {
        "format": "openmm-les export",
        "format_version": FORMAT_VERSION,
        "precision": precision,
        "cutoff": model.cutoff,
        "elements": list(model.elements),
        **SIGNATURE,
        "metadata": model.metadata,
    }
    exported = ExportedModel(model, dtypes[precision])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=DeprecationWarning)
        try:
            script = torch.jit.script(exported)
        except (RuntimeError, torch.jit.frontend.FrontendError) as error:
            raise ValueError(f"the model does not compile to TorchScript: {error}") from error
        extra = {DESCRIPTION: json.dumps(description)}
        torch.jit.save(script, str(path), _extra_files=extra)
    return description


def signature_lines(description: Dict[str, Any]) -> List[str]:
    """The description's signature as text."""
    lines = []
    for part in ("inputs", "outputs"):
        lines.append(f"{part}:")
        lines += [
            f"  {name}: {shape}{f', {unit}' if unit else ''}" for name, shape, unit in description[part]
        ]
    lines += [f"method {name}: {what}" for name, what in description["methods"].items()]
    return lines


__all__ = ["DESCRIPTION", "ExportedModel", "export_model", "signature_lines"]
