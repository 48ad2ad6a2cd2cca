"""Numbers and e3nn modules in the records of a MACE file."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor

from openmm_les.exceptions import CheckpointError
from openmm_les.models.adapters.unpickle import PickledModule, Record

_ACTIVATIONS = {"silu": "silu", "tanh": "tanh"}


class ProductPath(NamedTuple):
    """Path of an e3nn product: irreps joined, weight, normalisation."""

    first: int
    second: int
    out: int
    factor: float
    shape: Tuple[int, ...]


class MACERecords:
    """Reads records of one file; what has no counterpart here is refused by name."""

    def __init__(self, file: PickledModule) -> None:
        self.file = file

    def network(self, record: Record) -> Tuple[List[Tensor], List[int]]:
        """Matrices of an e3nn FullyConnectedNet with silu, all factors folded in, and its widths."""
        layers = record.children()
        if short_kind(record) != "FullyConnectedNet" or not layers:
            raise self.unsupported(f"the radial network {short_kind(record)}")
        matrices, gain = [], 1.0
        for i, layer in enumerate(layers):
            matrix = self.tensor(self.part(layer, "weight"))
            matrices.append(matrix * (gain * matrix.shape[0] ** -0.5))
            act = layer.get("act")
            if i < len(layers) - 1:
                name, gain = self.activation(act)
                if name != "silu":
                    raise self.unsupported(f"{name} in the radial network")
            elif act is not None:
                raise self.unsupported("a radial network that ends with an activation")
        return matrices, [matrix.shape[0] for matrix in matrices]

    def activation(self, record: Any) -> Tuple[str, float]:
        """Name and normalising factor of an activation."""
        if record is None:
            return "none", 1.0
        name = short_kind(record.get("f", record))
        if name not in _ACTIVATIONS:
            raise self.unsupported(f"the activation {name}")
        return _ACTIVATIONS[name], float(self.value(record.get("cst", 1.0)))

    def linear(self, record: Record) -> Dict[int, Tensor]:
        """Matrices [in, out] of an e3nn Linear by degree, factors folded in, inputs concatenated."""
        if short_kind(record) != "Linear":
            raise self.unsupported(f"{record.kind} in the place of e3nn.o3.Linear")
        weight = self.tensor(self.part(record, "weight"))
        irreps = self.irreps(self.part(record, "irreps_in"))
        parts: Dict[int, List[Tuple[int, Tensor]]] = {}
        begin = 0
        for instruction in record.get("instructions") or []:
            first, _, shape, factor = instruction.args[:4]
            if int(first) < 0:
                continue  # a bias
            shape = tuple(int(n) for n in shape)
            n = shape[0] * shape[1]
            block = weight[begin : begin + n].view(shape) * float(factor)
            parts.setdefault(irreps[int(first)][1], []).append((int(first), block))
            begin += n
        if begin != len(weight):
            raise self.unsupported("a Linear whose weights do not fit its instructions")
        return {
            degree: torch.cat([b for _, b in sorted(blocks, key=lambda p: p[0])])
            for degree, blocks in parts.items()
        }

    def element_linear(self, record: Record) -> Tuple[List[int], List[Tensor]]:
        """Degrees and matrices [elements, in, out] of a product of features with element labels."""
        weight = self.tensor(self.part(record, "weight"))
        irreps = self.irreps(self.part(record, "irreps_in1"))
        degrees, matrices = [], []
        begin = 0
        for block in self.blocks(record):
            degree = irreps[block.first][1]
            n = block.shape[0] * block.shape[1] * block.shape[2]
            own = weight[begin : begin + n].view(block.shape).permute(1, 0, 2)
            # The coupling of l with a scalar is the unit matrix over √(2l + 1).
            matrices.append(own * (block.factor / (2 * degree + 1) ** 0.5))
            degrees.append(degree)
            begin += n
        if degrees != sorted(set(degrees)):
            raise self.unsupported("a skip connection that joins several features of one degree")
        return degrees, matrices

    def blocks(self, record: Record) -> List[ProductPath]:
        """Instructions of an e3nn TensorProduct."""
        found = []
        for instruction in self.part(record, "instructions"):
            first, second, out, mode, has_weight, factor, shape = instruction.args[:7]
            if mode not in ("uvu", "uvw") or not has_weight:
                raise self.unsupported(f"a tensor product of mode {mode}")
            found.append(
                ProductPath(int(first), int(second), int(out), float(factor), tuple(map(int, shape)))
            )
        return found

    def irreps(self, record: Any) -> List[Tuple[int, int]]:
        """Channels and degree of each part of an e3nn Irreps; parities must be (-1)^l."""
        found = []
        for part in _unpack(record):
            mul, irrep = _unpack(part)
            degree, parity = _unpack(irrep)
            if int(parity) != (-1) ** int(degree):
                raise self.unsupported(f"features of unnatural parity ({degree}{'eo'[int(parity) < 0]})")
            found.append((int(mul), int(degree)))
        return found

    def part(self, record: Any, *names: str) -> Any:
        """What lies at a path of names below a record; says so where it is missing."""
        for name in names:
            found = record.get(name) if isinstance(record, Record) else None
            if found is None:
                raise CheckpointError(
                    f"{self.file.path} lacks {name!r} in {getattr(record, 'kind', type(record).__name__)}: "
                    "not a MACE, or of a version that this openmm-les does not know"
                )
            record = found
        return record

    def numbers(self, record: Record, name: str) -> Tensor:
        """Buffer or parameter, float64 or int64."""
        return self.tensor(self.part(record, name))

    def tensor(self, value: Any) -> Tensor:
        """Numbers of a tensor record, float64 where they are floating point."""
        found = self.file.tensor(value)
        if not found.is_floating_point():
            return found.to(torch.int64)
        if not bool(torch.isfinite(found).all()):
            raise CheckpointError(f"{self.file.path} holds NaN or infinite weights")
        return found.to(torch.float64)

    def value(self, value: Any) -> float:
        """A number that may be a tensor."""
        return float(value if isinstance(value, (int, float)) else self.tensor(value))

    def unsupported(self, what: str) -> CheckpointError:
        """Error that names what the model has and this version has not."""
        return CheckpointError(f"{self.file.path} has {what}, which this openmm-les cannot rebuild")


def short_kind(record: Any) -> str:
    """Class name of a record, its module left out."""
    kind = record.kind if isinstance(record, Record) else getattr(record, "kind", type(record).__name__)
    return str(kind).rpartition(".")[2]


def _unpack(record: Any) -> Sequence[Any]:
    """Members of a pickled tuple subclass, which stand in its arguments."""
    values = record.args if isinstance(record, Record) else record
    while len(values) == 1 and isinstance(values[0], (tuple, list)):
        values = values[0]
    return values


__all__ = ["MACERecords", "ProductPath", "short_kind"]
