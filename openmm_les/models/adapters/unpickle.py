"""Reads the data in a pickled torch module and runs nothing of it.

``torch.load`` of a whole module imports what the file names and calls it: a model file can run any
program. Here every name becomes an inert `Record` of what the file says about it, whatever is called
on it. Names that no model of this kind needs are refused, as is source text for torch.fx that reaches
for anything but torch, though it would not be run either.
"""

from __future__ import annotations

import ast
import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Tuple, Union

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from openmm_les.exceptions import CheckpointError

# Packages whose names become records. Everything else must be in _VALUES or is refused.
_RECORDED = ("mace.", "les.", "e3nn.", "torch.nn.", "torch.fx.", "opt_einsum_fx.")
# Names of other modules that become records, too.
_RECORDED_NAMES = {
    ("torch", "Size"),
    ("torch", "device"),
    ("torch._C", "_VariableFunctions"),
    ("torch._C", "_VariableFunctionsClass"),
    ("torch._C._nn", "silu"),
    ("torch", "tanh"),
    ("torch", "abs"),
    ("torch", "sigmoid"),
    ("torch", "float32"),
    ("torch", "float64"),
}
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_FUNCTION_HOLDERS = ("torch._C._VariableFunctions", "torch._C._VariableFunctionsClass")
_GRAPH_IMPORTS = ("torch", "math", "typing", "numpy", "opt_einsum_fx")
_LARGEST_PICKLE = 1 << 28


class TensorRecord(NamedTuple):
    """Where the numbers of a tensor lie in the file."""

    key: str
    dtype: torch.dtype
    offset: int
    size: Tuple[int, ...]
    stride: Tuple[int, ...]


class Record:
    """What a file says about an object: the dotted name of its class, arguments and state."""

    kind = ""

    args: Tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        record = object.__new__(cls)
        record.args = args
        record.state = {}
        return record

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def get(self, name: str, default: Any = None) -> Any:
        """Parameter, buffer, submodule or plain attribute ``name``; ``default`` if there is none."""
        if not isinstance(self.state, dict):
            return default
        for place in ("_parameters", "_buffers", "_modules"):
            held = self.state.get(place)
            if isinstance(held, Mapping) and name in held:
                return held[name]
        return self.state.get(name, default)

    def children(self) -> List[Any]:
        """Submodules (of a ModuleList) or parameters (of a ParameterList) in order."""
        held = self.state.get("_modules") or self.state.get("_parameters") or {}
        return list(held.values())


class PickledModule:
    """A module read from a file: its `root` record, and its tensors on demand.

    Parameters
    ----------
    path : file that ``torch.save`` wrote

    Raises
    ------
    CheckpointError
        The file is damaged, of another kind, or names what no model needs.
    """

    def __init__(self, path: Union[str, Path]) -> None:
        self.path = Path(path)
        try:
            with zipfile.ZipFile(self.path) as archive:
                self._entries = _stored_entries(archive, self.path)
        except (zipfile.BadZipFile, OSError, NotImplementedError, EOFError) as error:
            raise CheckpointError(
                f"{self.path} is not a complete file of torch.save: {error}. Truncated, or written by "
                "torch before 1.6? Then load and save it again with a newer torch"
            ) from error
        if "constants.pkl" in self._entries or "code" in {name.split("/")[0] for name in self._entries}:
            raise CheckpointError(f"{self.path} is compiled TorchScript; give the model it was compiled from")
        if "data.pkl" not in self._entries:
            raise CheckpointError(f"{self.path} is a zip file without a pickled model")
        if self._entries.get("byteorder", b"little") != b"little":
            raise CheckpointError(f"{self.path} was written on a big-endian machine")
        if len(self._entries["data.pkl"]) > _LARGEST_PICKLE:
            raise CheckpointError(f"{self.path} holds {len(self._entries['data.pkl'])} bytes of pickle")
        reader = _Unpickler(self._entries["data.pkl"], self.path)
        try:
            self.root = reader.load()
        except CheckpointError:
            raise
        except Exception as error:  # a damaged pickle fails in any way
            raise CheckpointError(f"{self.path} holds a damaged pickle: {error!r}") from error
        self.kinds = reader.kinds

    def tensor(self, value: Any) -> Tensor:
        """The numbers of a `TensorRecord`, own memory.

        Raises
        ------
        CheckpointError
            Not a tensor, or one that reaches beyond the numbers in the file.
        """
        if not isinstance(value, TensorRecord):
            raise CheckpointError(f"{self.path} has {_name_of(value)} where a tensor belongs")
        content = self._entries.get(f"data/{value.key}")
        if content is None:
            raise CheckpointError(f"{self.path} lacks the numbers of storage {value.key!r}")
        itemsize = torch.empty(0, dtype=value.dtype).element_size()
        numbers = len(content) // itemsize
        if 0 in value.size:
            return torch.zeros(value.size, dtype=value.dtype)
        last = value.offset + sum((n - 1) * step for n, step in zip(value.size, value.stride))
        if min(*value.size, *value.stride, value.offset, 0) < 0 or last >= numbers:
            raise CheckpointError(f"{self.path} holds {numbers} numbers for a tensor of {list(value.size)}")
        if int(np.prod(value.size)) > numbers:
            raise CheckpointError(f"{self.path} has a tensor of {list(value.size)} on {numbers} numbers")
        flat = torch.frombuffer(bytearray(content), dtype=value.dtype)
        return torch.as_strided(flat, value.size, value.stride, value.offset).clone()


def _stored_entries(archive: zipfile.ZipFile, path: Path) -> Dict[str, bytes]:
    """Contents by name, the archive's root folder left out."""
    entries = {}
    for info in archive.infolist():
        # torch.save never compresses; a compressed entry could be a bomb.
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > info.compress_size:
            raise CheckpointError(f"{path} has a compressed entry {info.filename!r}, not of torch.save")
        entries[info.filename.split("/", 1)[-1]] = archive.read(info)
    return entries


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes, path: Path) -> None:
        super().__init__(io.BytesIO(content), encoding="utf-8")
        self.path = path
        self.kinds: Dict[str, type] = {}

    def find_class(self, module: str, name: str) -> Any:
        """An inert stand-in for ``module.name``."""
        full = f"{module}.{name}"
        if (module, name) in _VALUES:
            # Anew for each file: nothing that a file does to it reaches another.
            return _VALUES[module, name]()
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        known = f"{module}.".startswith(_RECORDED) or (module, name) in _RECORDED_NAMES
        if not known or "__" in full or "." in name:
            raise CheckpointError(
                f"{self.path} asks for {full!r}, which no model needs: refused, nothing of the file was run"
            )
        if full not in self.kinds:
            base = _GraphRecord if name == "reduce_graph_module" else Record
            self.kinds[full] = type(name, (base,), {"kind": full, "path": self.path})
        return self.kinds[full]

    def persistent_load(self, pid: Any) -> Any:
        """Place of a tensor's numbers: ("storage", type, key, device, count)."""
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage"):
            raise CheckpointError(f"{self.path} holds an unknown persistent object")
        if not (isinstance(pid[1], torch.dtype) and isinstance(pid[2], str)):
            raise CheckpointError(f"{self.path} holds a storage of unknown type")
        return pid[2], pid[1]


class _GraphRecord(Record):
    """torch.fx graph: its source text would be executed by torch; here it is read only."""

    path: Path

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        for text in _texts(args):
            foreign = _foreign_names(text)
            if foreign:
                raise CheckpointError(
                    f"{cls.path} holds source text for torch.fx ({cls.kind}) that uses {foreign!r}: "
                    "refused, nothing of the file was run"
                )
        return super().__new__(cls, *args, **kwargs)


def _texts(value: Any) -> Iterator[str]:
    """Source texts among the arguments of reduce_graph_module: the code and the import block."""
    for part in value:
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict):
            yield from (v for k, v in part.items() if k == "_code" and isinstance(v, str))


def _foreign_names(text: str) -> str:
    """First name in a source text that plain tensor arithmetic does not need, or ""."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text[:40]
    for node in ast.walk(tree):
        names: List[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "."]
        for name in names:
            if name.split(".")[0] not in _GRAPH_IMPORTS:
                return name
        word = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
        if word in _FORBIDDEN_WORDS or (word.startswith("__") and word.endswith("__")):
            return word
    return ""


_FORBIDDEN_WORDS = {
    "breakpoint", "compile", "ctypeslib", "delattr", "eval", "exec", "fromfile", "getattr", "globals",
    "hub", "input", "load", "load_library", "locals", "memmap", "open", "os", "save", "setattr", "sys",
    "subprocess", "system", "vars",
}  # fmt: skip


def _attribute(owner: Any, name: Any) -> Any:
    """Function of torch by name (torch.tanh is pickled as an attribute of a class), as a record."""
    if getattr(owner, "kind", "") not in _FUNCTION_HOLDERS or name not in ("tanh", "abs", "sigmoid"):
        raise CheckpointError(f"the attribute {name!r} of {_name_of(owner)} is asked for by getattr: refused")
    return type(str(name), (Record,), {"kind": f"torch.{name}"})


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> TensorRecord:
    key, dtype = storage
    return TensorRecord(key, dtype, int(offset), tuple(map(int, size)), tuple(map(int, stride)))


def _rebuild_parameter(data: Any, *rest: Any) -> Any:
    return data


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes, as the older pickle protocols spell them."""
    if encoding not in ("latin1", "latin-1"):
        raise CheckpointError(f"bytes in encoding {encoding!r}")
    return str(text).encode("latin1")


def _scalar(dtype: Any, content: Any = b"") -> Any:
    """A number of numpy."""
    return np.frombuffer(content, dtype=dtype, count=1)[0].item()


def _dtype(name: Any, *rest: Any) -> Any:
    """A numeric type of numpy, as an object that takes its pickled state and ignores it."""
    if name not in ("f8", "f4", "i8", "i4", "b1"):
        raise CheckpointError(f"numbers of numpy type {name!r}")
    return _NumpyType(name)


class _NumpyType(str):
    def __setstate__(self, state: Any) -> None:
        pass


def _fresh(function: Callable[..., Any]) -> Callable[[], Any]:
    """Makes a new wrapper at each call, so that a file cannot change the function itself."""
    return lambda: lambda *args: function(*args)


# The few callables a model's data need, each of our own making.
_VALUES: Dict[Tuple[str, str], Callable[[], Any]] = {
    ("collections", "OrderedDict"): lambda: OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _fresh(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): _fresh(_rebuild_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): _fresh(_rebuild_parameter),
    ("_codecs", "encode"): _fresh(_encode),
    **{(m, "getattr"): _fresh(_attribute) for m in ("__builtin__", "builtins")},
    **{(m, "set"): _fresh(set) for m in ("__builtin__", "builtins")},
    **{(m, "slice"): _fresh(slice) for m in ("__builtin__", "builtins")},
    **{(m, "scalar"): _fresh(_scalar) for m in ("numpy.core.multiarray", "numpy._core.multiarray")},
    ("numpy", "dtype"): _fresh(_dtype),
}


def _name_of(value: Any) -> str:
    return str(getattr(value, "kind", type(value).__name__))


__all__ = ["PickledModule", "Record", "TensorRecord"]
