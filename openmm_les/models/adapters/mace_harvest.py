"""Finds settings and weights of a MACE in the records of its pickle.

Everything is read from the file, nothing assumed: degrees, couplings and their order, every factor of
normalisation (folded into the weights), the head. What has no counterpart here is refused by name.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from openmm_les.exceptions import CheckpointError
from openmm_les.models.adapters.mace_products import contraction_terms
from openmm_les.models.adapters.mace_records import MACERecords, short_kind
from openmm_les.models.adapters.unpickle import PickledModule, Record

_INTERACTIONS = {
    # skip connection, divided by a learned density
    "RealAgnosticInteractionBlock": ("message", False),
    "RealAgnosticResidualInteractionBlock": ("residual", False),
    "RealAgnosticDensityInteractionBlock": ("message", True),
    "RealAgnosticDensityResidualInteractionBlock": ("residual", True),
}

Weights = Dict[str, Tensor]


class Harvest(NamedTuple):
    """Arguments of `MACEBackbone` and `MACEChargeHead` and their state dicts."""

    backbone: Dict[str, Any]
    backbone_weights: Weights
    charges: Optional[List[Dict[str, Any]]]
    """readouts of the charge head; None: a model without charges"""
    charge_weights: Weights
    reference_energies: List[float]
    """eV, of each element"""
    dtype: torch.dtype
    head: str


class MACEHarvester(MACERecords):
    """Reads one model out of a file; `harvest` is its only use."""

    def __init__(self, file: PickledModule, head: Optional[str] = None) -> None:
        super().__init__(file)
        self.root: Record = file.root
        self.elements = [int(z) for z in self.numbers(self.root, "atomic_numbers")]
        self.cutoff = float(self.numbers(self.root, "r_max"))
        self.dtype = file.tensor(self.part(self.root, "r_max")).dtype
        heads = [str(h) for h in (self.root.get("heads") or ["default"])]
        if head is None and len(heads) > 1:
            raise CheckpointError(
                f"{file.path} has several heads ({', '.join(heads)}): choose one (`head`, or "
                "openmm-les convert --head)"
            )
        if head is not None and head not in heads:
            raise CheckpointError(f"{file.path} has no head {head!r}, it has {', '.join(heads)}")
        self.n_heads = len(heads)
        self.head = heads[0] if head is None else head
        self.head_index = heads.index(self.head)

    def harvest(self) -> Harvest:
        """Everything that makes up the model; CheckpointError where something is missing."""
        for name in ("joint_embedding", "embedding_readout"):
            if self.root.get(name) is not None:
                raise self.unsupported(f"an embedding of further inputs ({name})")
        embedding = self.linear(self.part(self.root, "node_embedding", "linear"))[0]
        n_channels = embedding.shape[1]
        l_max = max(
            degree for _, degree in self.irreps(self.part(self.root, "spherical_harmonics", "irreps_out"))
        )
        weights: Weights = {"embedding.weight": embedding}
        interactions = self.part(self.root, "interactions").children()
        products = self.part(self.root, "products").children()
        layers = []
        for i, (interaction, product) in enumerate(zip(interactions, products)):
            settings, own = self.layer(interaction, product, n_channels)
            layers.append(settings)
            weights.update({f"layers.{i}.{name}": value for name, value in own.items()})
        radial, repulsion = self.radial(weights)
        scale, shift = self.scale_and_shift()
        if repulsion is not None:
            repulsion["factor"] = scale
        weights["shift"] = torch.tensor(shift, dtype=torch.float64)
        readouts, own = self.readouts("readouts", len(layers), scale)
        weights.update({f"readouts.{name}": value for name, value in own.items()})
        charges, charge_weights = None, {}
        if self.root.get("les_readouts") is not None:
            charges, own = self.readouts("les_readouts", len(layers), 1.0)
            charge_weights = {f"readouts.{name}": value for name, value in own.items()}
        backbone = dict(
            elements=self.elements,
            cutoff=self.cutoff,
            n_channels=n_channels,
            l_max=l_max,
            radial=radial,
            layers=layers,
            readouts=readouts,
            repulsion=repulsion,
        )
        return Harvest(
            backbone,
            weights,
            charges,
            charge_weights,
            self.reference_energies(),
            self.dtype,
            self.head,
        )

    def layer(self, interaction: Record, product: Record, n_channels: int) -> Tuple[Dict[str, Any], Weights]:
        """Arguments and weights of one `MACELayer`."""
        kind = short_kind(interaction)
        if kind not in _INTERACTIONS:
            raise self.unsupported(f"the interaction {kind}; known are {', '.join(_INTERACTIONS)}")
        skip, density = _INTERACTIONS[kind]
        own: Weights = {}
        up = self.linear(self.part(interaction, "linear_up"))
        for degree in sorted(up):
            own[f"up.{degree}.weight"] = up[degree].t()
        n_edge = up[0].shape[1]
        tensor_product = self.part(interaction, "conv_tp")
        irreps = [
            self.irreps(self.part(tensor_product, name))
            for name in ("irreps_in1", "irreps_in2", "irreps_out")
        ]
        blocks = self.blocks(tensor_product)
        paths = [[irreps[0][b.first][1], irreps[1][b.second][1], irreps[2][b.out][1]] for b in blocks]
        for path in paths:
            if sum(path) % 2:
                raise self.unsupported("features of unnatural parity (such as 1e)")
        layers, radial_sizes = self.network(self.part(interaction, "conv_tp_weights"))
        own.update({f"radial.{i}.weight": matrix.t() for i, matrix in enumerate(layers)})
        mix = self.linear(self.part(interaction, "linear"))
        neighbors = 1.0 if density else float(self.value(interaction.get("avg_num_neighbors", 1.0)))
        for i, degree in enumerate(sorted(mix)):
            factors = [b.factor for b, path in zip(blocks, paths) if path[2] == degree]
            scale = torch.tensor(factors, dtype=torch.float64).repeat_interleave(n_edge) / neighbors
            if mix[degree].shape[0] != len(scale):
                raise self.unsupported("a message whose couplings and mixing matrices do not fit")
            own[f"mix.{i}.weight"] = (scale.unsqueeze(1) * mix[degree]).t()
        degrees, matrices = self.element_linear(self.part(interaction, "skip_tp"))
        own.update({f"skip.{i}.weight": matrix for i, matrix in enumerate(matrices)})
        if density:
            (vector,), _ = self.network(self.part(interaction, "density_fn"))
            own["density.weight"] = vector.t()
        else:
            own["density.weight"] = torch.zeros(1, radial_sizes[0])
        update = self.linear(self.part(product, "linear"))
        hidden = sorted(update)
        for i, degree in enumerate(hidden):
            own[f"update.{i}.weight"] = update[degree].t()
        if any(matrix.shape != (n_channels, n_channels) for matrix in update.values()):
            raise self.unsupported("hidden irreps with different numbers of channels")
        contraction, terms = self.contraction(product)
        own.update({f"contraction.{name}": value for name, value in terms.items()})
        uses_skip = skip == "message" or bool(product.get("use_sc", True))
        settings = dict(
            n_edge=n_edge,
            paths=paths,
            radial=radial_sizes,
            hidden=hidden,
            skip=skip,
            skipped=degrees if uses_skip else [],
            density=density,
            contraction=contraction,
        )
        if not uses_skip:
            own = {name: value for name, value in own.items() if not name.startswith("skip.")}
        return settings, own

    def contraction(self, product: Record) -> Tuple[Dict[str, int], Weights]:
        """Sizes and weights of the `SymmetricContraction` of one layer."""
        symmetric = self.part(product, "symmetric_contractions")
        if symmetric.get("contractions") is None:
            raise self.unsupported("a product of cuequivariance; convert the model to e3nn with mace first")
        couplings: List[List[Tensor]] = []
        weights: List[Tensor] = []
        for part in symmetric.get("contractions").children():
            order = int(self.value(part.get("correlation")))
            own = [self.part(part, "weights_max"), *self.part(part, "weights").children()]
            couplings.append([])
            for nu, weight in zip(range(order, 0, -1), own):
                couplings[-1].append(self.tensor(self.part(part, f"U_matrix_{nu}")))
                weights.append(self.tensor(weight))
        sizes, terms = contraction_terms(couplings)
        terms["weights"] = torch.cat(weights, 1)
        sizes["n_elements"], sizes["n_paths"] = terms["weights"].shape[:2]
        return sizes, terms

    def radial(self, weights: Weights) -> Tuple[Dict[str, Any], Optional[Dict[str, Any]]]:
        """Arguments of `RadialFunctions` and `PairRepulsion`; the basis joins ``weights``."""
        embedding = self.part(self.root, "radial_embedding")
        basis = self.part(embedding, "bessel_fn")
        settings: Dict[str, Any] = {"power": float(self.numbers(self.part(embedding, "cutoff_fn"), "p"))}
        kind = short_kind(basis)
        if kind == "BesselBasis":
            centers = self.numbers(basis, "bessel_weights")
            settings["basis"] = "bessel"
        elif kind == "GaussianBasis":
            centers = self.numbers(basis, "gaussian_weights")
            width = (-0.5 / float(self.value(basis.get("coeff")))) ** 0.5
            settings.update(basis="gaussian", width=width)
        else:
            raise self.unsupported(f"the radial basis {kind}")
        weights["radial.centers"] = centers
        settings["n_functions"] = len(centers)
        transform = embedding.get("distance_transform")
        if transform is not None:
            names = {"AgnesiTransform": ("agnesi", "aqp"), "SoftTransform": ("soft", ("alpha",))}
            if short_kind(transform) not in names:
                raise self.unsupported(f"the distance transform {short_kind(transform)}")
            name, parameters = names[short_kind(transform)]
            settings["transform"] = name
            settings["parameters"] = [float(self.numbers(transform, p)) for p in parameters]
            settings["radii"] = self.radii(transform)
        settings["early"] = bool(embedding.get("apply_cutoff", True))
        repulsion = None
        if self.root.get("pair_repulsion_fn") is not None:
            function = self.part(self.root, "pair_repulsion_fn")
            repulsion = dict(
                numbers=self.elements,
                radii=self.radii(function),
                power=float(self.numbers(function, "p")),
                weights=self.numbers(function, "c").tolist(),
                exponent=float(self.numbers(function, "a_exp")),
                length=float(self.numbers(function, "a_prefactor")),
            )
        return settings, repulsion

    def radii(self, module: Record) -> List[float]:
        """Covalent radii of the model's elements, Å."""
        table = self.numbers(module, "covalent_radii")
        return [float(table[z]) for z in self.elements]

    def scale_and_shift(self) -> Tuple[float, float]:
        """Factor and constant (eV) of the interaction energy of each atom."""
        block = self.root.get("scale_shift")
        if block is None:
            return 1.0, 0.0
        values = [self.numbers(block, name).flatten() for name in ("scale", "shift")]
        scale, shift = (float(v[self.head_index if len(v) > 1 else 0]) for v in values)
        return scale, shift

    def reference_energies(self) -> List[float]:
        """Energy of each element's lone atom, eV."""
        energies = self.numbers(self.part(self.root, "atomic_energies_fn"), "atomic_energies")
        energies = energies.reshape(-1, len(self.elements))
        return energies[self.head_index if len(energies) > 1 else 0].tolist()

    def readouts(self, name: str, n_layers: int, scale: float) -> Tuple[List[Dict[str, Any]], Weights]:
        """Arguments and weights of the readouts in the list ``name``, the last maps times ``scale``."""
        settings, weights = [], {}
        records = self.part(self.root, name).children()
        for i, record in enumerate(records):
            layer = n_layers - 1 if len(records) == 1 else i
            kind = short_kind(record)
            maps = {
                "LinearReadoutBlock": ("linear",),
                "NonLinearReadoutBlock": ("linear_1", "linear_2"),
                "NonLinearBiasReadoutBlock": ("linear_1", "linear_mid", "linear_2"),
            }.get(kind)
            if maps is None:
                raise self.unsupported(f"the readout {kind}")
            matrices = [self.linear(self.part(record, m))[0] for m in maps]
            biases = [self.tensor(self.part(record, m).get("bias")) for m in maps]
            activation, factor = "none", 1.0
            if len(maps) > 1:
                activation, factor = self.activation(self.part(record, "non_linearity", "acts").children()[0])
            chosen = slice(self.head_index, self.head_index + 1)
            for j in range(len(maps)):
                last = j == len(maps) - 1
                out = matrices[j].shape[1] // (1 if last else self.n_heads)
                if last:
                    columns = chosen if matrices[j].shape[1] > 1 else slice(0, 1)
                else:
                    columns = slice(self.head_index * out, (self.head_index + 1) * out)
                rows = slice(None)
                if j > 0:
                    width = matrices[j].shape[0] // self.n_heads
                    rows = slice(self.head_index * width, (self.head_index + 1) * width)
                gain = (factor if j > 0 else 1.0) * (scale if last else 1.0)
                weights[f"{i}.maps.{j}.weight"] = (gain * matrices[j][rows, columns]).t()
                if kind == "NonLinearBiasReadoutBlock" and j > 0:
                    weights[f"{i}.maps.{j}.bias"] = biases[j][columns] * (scale if last else 1.0)
            sizes = [weights[f"{i}.maps.{j}.weight"].shape[1] for j in range(len(maps))]
            settings.append(
                dict(
                    layer=layer, sizes=sizes, activation=activation, bias=kind == "NonLinearBiasReadoutBlock"
                )
            )
        return settings, weights


__all__ = ["Harvest", "MACEHarvester"]
