"""The model a run starts from: untrained, or one that was trained before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy.optimize import least_squares

from openmm_les.electrostatics import LatentCoulomb
from openmm_les.elements import atomic_numbers, symbol
from openmm_les.exceptions import DataError
from openmm_les.models.checkpoint import load_model
from openmm_les.models.equilibration import equilibrate_charges
from openmm_les.models.equivariant import EquivariantBackbone
from openmm_les.models.heads import LatentChargeHead, NoCharges
from openmm_les.models.model import LESModel
from openmm_les.models.multipole_sources import add_multipoles
from openmm_les.training.batches import GraphData
from openmm_les.training.data import Configurations, element_counts, fit_reference_energies
from openmm_les.training.metrics import predict
from openmm_les.training.settings import TrainingSettings

_SAMPLE = 300  # configurations from which reference energies are refitted
_WORTH_A_SHIFT = 0.5  # of the median error of energies must go, or it is the same method


def build_model(
    settings: TrainingSettings, elements: list[int], reference_energies: np.ndarray, mean_neighbors: float
) -> LESModel:
    """An untrained model; the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        backbone = EquivariantBackbone(
            elements,
            cutoff=settings.cutoff,
            n_channels=settings.channels,
            n_message=settings.message_channels,
            n_layers=settings.layers,
            mean_neighbors=mean_neighbors,
            charge_embedding=settings.charge_embedding,
        )
        head = (
            NoCharges()
            if settings.short_range_only or settings.equilibration
            else LatentChargeHead(elements, backbone.n_features, gain=settings.charge_gain)
        )
        model = LESModel(
            backbone, head, LatentCoulomb(settings.smearing), elements, [float(e) for e in reference_energies]
        )
        if settings.equilibration:
            equilibrate_charges(model, gain=settings.charge_gain, conserve=settings.conserve)
    give_multipoles(model, settings)
    return model.double() if settings.dtype == "float64" else model


def give_multipoles(model: LESModel, settings: TrainingSettings) -> None:
    """Add what the settings ask for beside charges, untrained and the same for the same seed.

    Raises
    ------
    DataError
        The model has no place for it.
    """
    if not settings.multipoles:
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        try:
            add_multipoles(
                model,
                dipoles=settings.latent_dipoles,
                quadrupoles=settings.latent_quadrupoles,
                polarizability=settings.polarizability,
            )
        except ValueError as error:
            raise DataError(f"the model cannot get multipoles: {error}") from error


def give_charge_embedding(model: LESModel, settings: TrainingSettings) -> None:
    """Add the embedding of molecules' charges if it is asked for and not there; it starts silent.

    Raises
    ------
    DataError
        Another backbone than the built-in one.
    """
    if not settings.charge_embedding:
        return
    if not isinstance(model.backbone, EquivariantBackbone):
        raise DataError(
            f"`charge_embedding` is for the built-in backbone; {Path(settings.init).name} has a "
            f"{type(model.backbone).__name__}"
        )
    model.backbone.give_charge_embedding()


def trained_model(name_or_path: str | Path, elements: list[int], dtype: torch.dtype) -> LESModel:
    """A model to train further, in ``dtype``.

    Raises
    ------
    CheckpointError
        No such model.
    DataError
        The data hold elements that it does not know.
    """
    model = load_model(name_or_path)
    new = sorted(set(elements) - set(model.elements))
    if new:
        raise DataError(
            f"the data hold {', '.join(map(symbol, new))}, which {Path(name_or_path).name} does not know (it "
            f"knows {', '.join(map(symbol, model.elements))}); new elements need a model trained from scratch"
        )
    model.domain = None  # new data, other features
    return model.to(dtype).train()


def chosen_elements(text: str, known: list[int]) -> list[int]:
    """Atomic numbers of ``"H,O"``, ascending.

    Raises
    ------
    DataError
        Not of that form, or not among those that the model knows.
    """
    names = text.replace(",", " ").split()
    wrong = [name for name in names if atomic_numbers.get(name) not in known]
    if wrong or not names:
        raise DataError(
            f"elements must read like H,O and be among {', '.join(map(symbol, known))}; got {text!r}"
        )
    return sorted({atomic_numbers[name] for name in names})


def given_reference_energies(text: str, elements: list[int]) -> np.ndarray:
    """Reference energies of ``"H=-13.6,O=-2041.2"``, [n_elements] in eV.

    Raises
    ------
    DataError
        Not of that form, or an element is left out.
    """
    given: dict[int, float] = {}
    for entry in filter(None, text.replace(",", " ").split()):
        name, _, value = entry.partition("=")
        try:
            given[atomic_numbers[name]] = float(value)
        except (KeyError, ValueError) as error:
            raise DataError(f"reference energies must read like H=-13.6,O=-2041.2; got {entry!r}") from error
    missing = [z for z in elements if z not in given]
    if missing:
        raise DataError(f"no reference energy is given for {', '.join(map(symbol, missing))}")
    return np.array([given[z] for z in elements])


def refit_reference_energies(model: LESModel, data: GraphData, seed: int) -> float:
    """Shift a model's reference energies to the level of theory of ``data``; the largest shift, eV.

    Total energies of two methods differ by far more per atom than anything that training could bridge.
    Those of one method stay (0.0): what a model does not know yet, as molecules that are torn, must not
    move them.
    """
    drawn = np.random.default_rng(seed).permutation(len(data))[:_SAMPLE]
    sample: Configurations = data.configurations.select(np.sort(drawn))
    errors = sample.energy - predict(model, GraphData(sample, model.cutoff, dtype=data.dtype)).energy
    sample.energy = errors
    counts = element_counts(sample, model.elements)
    start = fit_reference_energies(sample, model.elements)
    spread = max(float(np.median(np.abs(errors - counts @ start))), 1e-6)
    # Absolute errors rather than their squares, or a few large ones would decide.
    shifts = least_squares(
        lambda x: counts @ x - errors, start, jac=lambda _: counts, loss="soft_l1", f_scale=spread
    ).x
    if np.median(np.abs(errors - counts @ shifts)) > _WORTH_A_SHIFT * np.median(np.abs(errors)):
        return 0.0
    model.reference_energies[torch.tensor(model.elements)] += torch.from_numpy(shifts)
    return float(np.abs(shifts).max())


__all__ = [
    "build_model",
    "give_charge_embedding",
    "give_multipoles",
    "given_reference_energies",
    "refit_reference_energies",
    "trained_model",
]
