"""Makes the checkpoints of this folder, and what the original program computes with them.

Untrained models of mace-torch with random weights, tiny ones. Run:

    TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 python make_checkpoints.py

Versions: mace-torch 0.3.16, e3nn 0.4.4, torch 2.9.1.

The package ``les`` is not needed: its module is stood in for by an empty one with the attributes that
a checkpoint holds, and its energy computed by the formulas of the papers, summed directly.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import sys
import types
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from e3nn import o3
from mace import data
from mace.data.utils import config_from_atoms
from mace.modules import blocks
from mace.modules.extensions import MACELES, _copy_mace_readout
from mace.modules.models import MACE, ScaleShiftMACE
from mace.tools import AtomicNumberTable
from mace.tools.torch_geometric.dataloader import DataLoader

HERE = Path(__file__).parent
LES = {"sigma": 1.1, "dl": 2.2, "norm_factor": 90.0474, "remove_self_interaction": False}
COMMON = dict(
    r_max=4.0,
    num_bessel=4,
    num_polynomial_cutoff=5,
    num_elements=3,
    MLP_irreps=o3.Irreps("5x0e"),
    radial_MLP=[6, 6],
    avg_num_neighbors=3.0,
    atomic_numbers=[1, 6, 8],
    gate=torch.nn.functional.silu,
    interaction_cls=blocks.RealAgnosticResidualInteractionBlock,
)


def make_les() -> torch.nn.Module:
    """What a checkpoint holds of the les package: constants only."""
    for name in ("les", "les.les", "les.module", "les.module.ewald"):
        sys.modules.setdefault(name, types.ModuleType(name))
    parts = []
    for home, name in (("les.les", "Les"), ("les.module.ewald", "Ewald")):
        cls = type(name, (torch.nn.Module,), {"__module__": home})
        setattr(sys.modules[home], name, cls)
        parts.append(cls())
    les, ewald = parts
    for name, value in LES.items():
        setattr(ewald, name, value)
    les.ewald = ewald
    return les


def les_energy(q: torch.Tensor, r: torch.Tensor, cell: torch.Tensor | None) -> torch.Tensor:
    """Direct sums, self-interaction kept (Cheng, npj Comput. Mater. 11, 80 (2025))."""
    ke, sigma = LES["norm_factor"] / (2 * math.pi), LES["sigma"]
    if cell is None:
        i, j = torch.triu_indices(len(q), len(q), 1)
        d = torch.linalg.norm(r[i] - r[j], dim=1)
        pairs = (q[i] * q[j] * torch.erf(d / (math.sqrt(2) * sigma)) / d).sum()
        return ke * pairs + ke * (q * q).sum() / (math.sqrt(2 * math.pi) * sigma)
    grid = torch.arange(-8, 9, dtype=r.dtype)
    k = torch.cartesian_prod(grid, grid, grid) @ (2 * math.pi * torch.linalg.inv(cell).T)
    k2 = (k * k).sum(1)
    kept = (k2 > 0) & (k2 <= (2 * math.pi / LES["dl"]) ** 2)
    phase = r @ k[kept].T
    s2 = (q[:, None] * phase.cos()).sum(0) ** 2 + (q[:, None] * phase.sin()).sum(0) ** 2
    terms = torch.exp(-(sigma**2) * k2[kept] / 2) / k2[kept] * s2
    return 2 * math.pi * ke / torch.linalg.det(cell).abs() * terms.sum()


def structures() -> dict[str, Atoms]:
    """A molecule and a small triclinic box."""
    ethanol = molecule("CH3CH2OH")
    ethanol.rattle(0.1, seed=1)
    cell = [[6.0, 0.0, 0.0], [1.0, 5.0, 0.0], [0.5, -0.5, 5.5]]
    spots = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) / 2 + 0.1
    box = Atoms("COH6", scaled_positions=spots, cell=cell, pbc=True)
    box.rattle(0.2, seed=2)
    return {"molecule": ethanol, "box": box}


def batch(atoms: Atoms, head: str | None, heads: list[str] | None) -> dict[str, torch.Tensor]:
    """Input of mace."""
    config = config_from_atoms(atoms)
    if head is not None:
        config.head = head
    options = {} if heads is None else {"heads": heads}
    graph = data.AtomicData.from_config(
        config, z_table=AtomicNumberTable([1, 6, 8]), cutoff=COMMON["r_max"], **options
    )
    return next(iter(DataLoader([graph], batch_size=1))).to_dict()


def reference(model: torch.nn.Module, head: str | None = None, heads: list[str] | None = None) -> dict:
    """Energies, forces and charges of the original in double."""
    model = model.double()
    found = {}
    for name, atoms in structures().items():
        inputs = batch(atoms, head, heads)
        cls = ScaleShiftMACE if isinstance(model, ScaleShiftMACE) else MACE
        output = cls.forward(model, inputs, compute_force=False)
        r = inputs["positions"]
        r.requires_grad_(True)
        output = cls.forward(model, inputs, compute_force=False)
        energy = output["energy"].sum()
        charges = torch.zeros(len(atoms))
        if isinstance(model, MACELES):
            widths = [p.linear.irreps_out.dim for p in model.products]
            parts = output["node_feats"].split(widths, -1)
            charges = sum(q(x).squeeze(-1) for q, x in zip(model.les_readouts, parts))
            cell = torch.tensor(np.array(atoms.cell)) if atoms.pbc.any() else None
            energy = energy + les_energy(charges, r, cell)
        (gradient,) = torch.autograd.grad(energy, r)
        found[name] = {
            "numbers": atoms.numbers.tolist(),
            "positions": atoms.positions.tolist(),
            "cell": np.array(atoms.cell).tolist() if atoms.pbc.any() else None,
            "energy": energy.item(),
            "forces": (-gradient).tolist(),
            "charges": charges.tolist(),
        }
    return found


def save(name: str, model: torch.nn.Module) -> None:
    content = io.BytesIO()
    torch.save(model, content)
    with gzip.GzipFile(HERE / f"{name}.model.gz", "wb", mtime=0) as file:
        file.write(content.getvalue())


def enlarge(model: torch.nn.Module) -> None:
    """Make what is almost silent in an untrained model count."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(1.5 if "conv_tp_weights" in name else 1.0)


def main() -> None:
    references = {}
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(1)
    les = ScaleShiftMACE(
        **COMMON,
        max_ell=2,
        num_interactions=2,
        hidden_irreps=o3.Irreps("3x0e+3x1o"),
        interaction_cls_first=blocks.RealAgnosticResidualInteractionBlock,
        correlation=3,
        atomic_energies=np.array([-13.0, -1030.0, -2040.0]),
        atomic_inter_scale=1.7,
        atomic_inter_shift=0.3,
    )
    les.les_readouts = torch.nn.ModuleList([_copy_mace_readout(r, cueq_config=None) for r in les.readouts])
    les.les = make_les()
    les.__class__ = MACELES
    enlarge(les)
    save("maceles", les)
    references["maceles"] = reference(les)

    heads = ["first", "second"]
    density = ScaleShiftMACE(
        **{**COMMON, "interaction_cls": blocks.RealAgnosticDensityResidualInteractionBlock},
        max_ell=2,
        num_interactions=2,
        hidden_irreps=o3.Irreps("3x0e"),
        interaction_cls_first=blocks.RealAgnosticDensityInteractionBlock,
        correlation=2,
        pair_repulsion=True,
        distance_transform="Agnesi",
        heads=heads,
        atomic_energies=np.array([[-13.0, -1030.0, -2040.0], [-1.0, -2.0, -3.0]]),
        atomic_inter_scale=[1.7, 0.9],
        atomic_inter_shift=[0.3, -0.2],
    )
    enlarge(density)
    save("density", density)
    references["density"] = reference(density, "second", heads)

    torch.set_default_dtype(torch.float32)
    plain = MACE(
        **COMMON,
        max_ell=1,
        num_interactions=1,
        hidden_irreps=o3.Irreps("3x0e"),
        interaction_cls_first=blocks.RealAgnosticInteractionBlock,
        correlation=3,
        atomic_energies=np.array([-13.0, -1030.0, -2040.0]),
    )
    enlarge(plain)
    save("plain", plain)
    torch.set_default_dtype(torch.float64)
    references["plain"] = reference(plain)
    (HERE / "references.json").write_text(json.dumps(references) + "\n")


if __name__ == "__main__":
    main()
