"""Models on disk: one safetensors file, its description as JSON in the file's own header.

Nothing in a file is ever executed: weights are raw numbers, the description is JSON, and modules
are built by the classes named in the registries below.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Type, Union

import safetensors
import torch
from safetensors.torch import save
from torch import nn

from openmm_les.electrostatics import LatentCoulomb
from openmm_les.elements import symbol
from openmm_les.exceptions import CheckpointError, LicenseWarning
from openmm_les.models.adapters.convert import convert_mace, make_converged
from openmm_les.models.adapters.mace import MACEBackbone, MACEChargeHead
from openmm_les.models.domain import FeatureDomain
from openmm_les.models.equilibration import ChargeEquilibration
from openmm_les.models.equivariant import EquivariantBackbone
from openmm_les.models.heads import LatentChargeHead, NoCharges
from openmm_les.models.model import LESModel
from openmm_les.models.multipole_sources import MultipoleSources

FORMAT = "openmm-les"
FORMAT_VERSION = 1
UNITS = {"length": "angstrom", "energy": "eV", "charge": "e"}
PRETRAINED = Path(__file__).parent / "pretrained"
DEFAULT_MODEL = "peptide-gfn2-small"
"""Shipped model that commands take where none is named."""
WEIGHTS = "model.safetensors"
CARD = "CARD.md"

BACKBONES: Dict[str, type] = {"EquivariantBackbone": EquivariantBackbone, "MACEBackbone": MACEBackbone}
CHARGE_HEADS: Dict[str, type] = {
    "LatentChargeHead": LatentChargeHead,
    "MACEChargeHead": MACEChargeHead,
    "NoCharges": NoCharges,
}
ELECTROSTATICS: Dict[str, type] = {"LatentCoulomb": LatentCoulomb}
SOURCES: Dict[str, type] = {
    "ChargeEquilibration": ChargeEquilibration,
    "MultipoleSources": MultipoleSources,
}
_RESTRICTED = re.compile(r"\bNC\b|non-?commercial|academic", re.IGNORECASE)
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def save_model(model: LESModel, path: Union[str, Path], metadata: Optional[Mapping[str, Any]] = None) -> None:
    """Write a model to one file, complete or not at all.

    Parameters
    ----------
    model : its parts must be of the built-in classes
    path : file; an existing one is replaced once the new one is complete
    metadata : JSON-ready description: name, level_of_theory, training_data, license, errors …

    Raises
    ------
    TypeError
        A part of the model has no place in the registries, so that it could not be loaded again.
    ValueError
        A weight is NaN or infinite; nothing is written.
    """
    for name, tensor in model.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"the model cannot be saved: {name} holds NaN or infinite values")
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "units": UNITS,
        "elements": [int(e) for e in model.elements],
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "backbone": _describe(model.backbone, BACKBONES),
        "charge_head": _describe(model.charge_head, CHARGE_HEADS),
        "electrostatics": _describe(model.electrostatics, ELECTROSTATICS),
        "sources": None if model.sources is None else _describe(model.sources, SOURCES),
        "charge_scale": model.charge_scale,
        "domain": None if model.domain is None else model.domain.config(),
        "versions": {p: version(p) for p in ("openmm-les", "torch", "safetensors")},
        "metadata": dict(metadata if metadata is not None else model.metadata),
    }
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    content = save(weights, {FORMAT: json.dumps(description)})
    path = Path(path)
    # A crash or a full disk must not leave half a model under the name of a whole one.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def load_model(
    name_or_path: Union[str, Path], *, electrostatics: str = "stored", head: Optional[str] = None
) -> LESModel:
    """A model by the name it ships under (`list_models`) or from a file.

    A MACE or MACE-LES checkpoint is converted on the way (`convert_mace`): recognised by its content,
    nothing of it is run.

    Parameters
    ----------
    name_or_path : of a shipped model, of a file of `save_model`, or of a checkpoint of mace
    electrostatics : "stored": the periodic sum as the model has it; "converged": complete, where a
        published model cuts it at some wave length (the log tells what that changes)
    head : of a checkpoint of mace with several

    Raises
    ------
    CheckpointError
        No such model or file, a damaged file, another format or a newer version of it.

    Warns
    -----
    LicenseWarning
        The weights are for non-commercial use only.
    """
    if electrostatics not in ("stored", "converged"):
        raise ValueError(f"`electrostatics` must be 'stored' or 'converged', got {electrostatics!r}")
    path = model_path(name_or_path)
    if _is_pickled(path):
        model = convert_mace(path, head=head)
    elif head is not None:
        raise ValueError(f"`head` is for checkpoints of mace; {path.name} is a model of openmm-les")
    else:
        description = read_description(path)
        with safetensors.safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}
        model = _build(description, weights, path)
    if electrostatics == "converged":
        make_converged(model)
    if is_restricted(model):
        terms = model.metadata["license"]
        warnings.warn(f"the weights of {path.name} are licensed: {terms}", LicenseWarning, stacklevel=2)
    return model


def model_path(name_or_path: Union[str, Path]) -> Path:
    """File of a model, by the name it ships under or as given.

    Raises
    ------
    CheckpointError
        No such model or file.
    """
    if str(name_or_path) in list_models():
        return PRETRAINED / str(name_or_path) / WEIGHTS
    path = Path(name_or_path)
    if not path.is_file():
        raise CheckpointError(
            f"no model {str(name_or_path)!r}: no such file, and the shipped models are "
            f"{', '.join(list_models()) or '(none)'}"
        )
    return path


def is_restricted(model: LESModel) -> bool:
    """Whether the licence of the weights, as the metadata state it, is a non-commercial one."""
    return _RESTRICTED.search(str(model.metadata.get("license", ""))) is not None


def read_description(path: Union[str, Path]) -> Dict[str, Any]:
    """The JSON description of a model file, checked for format and version, weights unread.

    Raises
    ------
    CheckpointError
        The file is damaged, of another format, or of a newer version.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a complete openmm-les model (safetensors): {error}. A model of another "
            "program must be converted first"
        ) from error
    if FORMAT not in header:
        raise CheckpointError(f"{path} is a safetensors file but not an openmm-les model")
    try:
        description = json.loads(header[FORMAT])
        found = description["format_version"]
    except (json.JSONDecodeError, RecursionError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} has a damaged description: {error!r}") from error
    if found != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {found}, this openmm-les reads {FORMAT_VERSION}; "
            "install a matching openmm-les"
        )
    return description


def list_models() -> List[str]:
    """Names of the models shipped with the package."""
    if not PRETRAINED.is_dir():
        return []
    return sorted(p.parent.name for p in PRETRAINED.glob(f"*/{WEIGHTS}"))


def model_card(name: str) -> str:
    """Card (Markdown) of a shipped model or of a file: data, level of theory, errors, licence."""
    path = model_path(name)
    beside = path.with_name(CARD)
    if path.name == WEIGHTS and beside.is_file():  # shipped ones, and runs
        return beside.read_text(encoding="utf-8")
    description = read_description(name)
    metadata = dict(description["metadata"])
    metadata["elements"] = " ".join(symbol(z) for z in description["elements"])
    parts = [description.get(p) for p in ("backbone", "charge_head", "sources", "electrostatics")]
    metadata["parts"] = ", ".join(part["type"] for part in parts if part)
    lines = [f"# {metadata.pop('name', Path(name).stem)}", ""]
    for key, value in metadata.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        lines.append(f"- **{key.replace('_', ' ')}**: {text}")
    return "\n".join(lines) + "\n"


def _is_pickled(path: Path) -> bool:
    """Whether a file is one of torch.save, by its first bytes, or claims to be one by its name."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04" or path.suffix == ".model"


def register_backbone(cls: Type[nn.Module]) -> Type[nn.Module]:
    """Let models with a backbone of class ``cls`` be saved, and loaded in any process that registers it.

    Its method ``config()`` gives the constructor's arguments, JSON-ready; usable as a decorator. A file
    holds the name of the class only: nothing but registered classes is ever built.

    Raises
    ------
    TypeError
        No `config` method.
    ValueError
        Another class of the same name is registered.
    """
    if not callable(getattr(cls, "config", None)):
        raise TypeError(f"{cls.__name__} needs a method config() that gives its constructor's arguments")
    if BACKBONES.setdefault(cls.__name__, cls) is not cls:
        raise ValueError(f"a backbone named {cls.__name__} is registered already")
    return cls


def _describe(part: Any, registry: Mapping[str, type]) -> Dict[str, Any]:
    cls = type(part)
    if registry.get(cls.__name__) is not cls:
        raise TypeError(
            f"a model with a {cls.__name__} cannot be saved; known are {', '.join(registry)} "
            "(a backbone of your own: register_backbone)"
        )
    return {"type": cls.__name__, **part.config()}


def _build(description: Mapping[str, Any], weights: Dict[str, Any], path: Path) -> LESModel:
    try:
        electrostatics = _construct(description["electrostatics"], ELECTROSTATICS)
        sources = None
        if description.get("sources"):
            sources = _construct(description["sources"], SOURCES, electrostatics=electrostatics)
        model = LESModel(
            _construct(description["backbone"], BACKBONES),
            _construct(description["charge_head"], CHARGE_HEADS),
            electrostatics,
            list(description["elements"]),
            charge_scale=float(description.get("charge_scale", 1.0)),
            domain=FeatureDomain(**description["domain"]) if description.get("domain") else None,
            sources=sources,
        )
        model = model.to(_DTYPES[description["dtype"]])
        model.load_state_dict(weights)
        for name, value in weights.items():
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name} holds NaN or infinite values")
        model.metadata = dict(description["metadata"])
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} does not describe a model that this version can build: {error}"
        ) from error
    return model.eval()


def _construct(settings: Mapping[str, Any], registry: Mapping[str, type], **given: Any) -> Any:
    arguments = {**settings, **given}
    kind = arguments.pop("type")
    if kind not in registry:
        raise ValueError(
            f"unknown part {kind!r}; known are {', '.join(registry)} (a backbone of your own must be "
            "registered first: register_backbone)"
        )
    return registry[kind](**arguments)
