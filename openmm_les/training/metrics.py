"""Errors of a model on labelled data, overall and by group; charges and what follows from them."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase.data import atomic_masses

from openmm_les.elements import symbol
from openmm_les.models.model import LESModel
from openmm_les.training.batches import Batch, Batches, GraphData
from openmm_les.training.data import Configurations
from openmm_les.training.loss import Outputs, predict_batch

SMALL_CHARGES = 0.05
"""e: a smaller standard deviation of the charges of neutral configurations means that the Coulomb
term is as good as switched off (the energy is quadratic in the charges, zero is stationary)."""


class Predictions:
    """Predictions for a data set, collected batch by batch; NaN where nothing was predicted."""

    def __init__(self, configurations: Configurations) -> None:
        self.configurations = configurations
        n, n_atoms = len(configurations), int(configurations.offsets[-1])
        self.energy = np.full(n, np.nan)  # eV
        self.forces = np.full((n_atoms, 3), np.nan)  # eV/Å
        self.latent_charges = np.full(n_atoms, np.nan)  # e
        self.charges = np.full(n_atoms, np.nan)  # e, physical
        self.stress = np.full((n, 3, 3), np.nan)  # eV/Å³
        self.born_charges = np.full((n_atoms, 3, 3), np.nan)  # e
        self.atomic_dipoles = np.zeros((n_atoms, 3))  # e·Å
        self.polarizability = np.full((n, 3, 3), np.nan)  # Å³

    def add(self, batch: Batch, outputs: Outputs) -> None:
        """Results of one batch."""
        indices = batch.indices.cpu().numpy()
        offsets = self.configurations.offsets
        atoms = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in indices])
        self.energy[indices] = outputs.energy.detach().cpu().numpy()
        self.forces[atoms] = outputs.forces.detach().cpu().numpy()
        self.latent_charges[atoms] = outputs.prediction.latent_charges.detach().cpu().numpy()
        self.charges[atoms] = outputs.charges.detach().cpu().numpy()
        self.atomic_dipoles[atoms] = outputs.prediction.latent_dipoles.detach().cpu().numpy()
        if outputs.stress is not None:
            self.stress[indices] = outputs.stress.detach().cpu().numpy()
        if outputs.born_charges is not None:
            self.born_charges[atoms] = outputs.born_charges.detach().cpu().numpy()
        if outputs.polarizability is not None:
            self.polarizability[indices] = outputs.polarizability.detach().cpu().numpy()

    def dipoles(self) -> tuple[np.ndarray, np.ndarray]:
        """Own and reference dipoles about the centres of mass, [n, 3] in e·Å; NaN if periodic."""
        c = self.configurations
        first = c.offsets[:-1]
        masses = atomic_masses[c.numbers]
        mass = np.add.reduceat(masses, first)
        center = np.add.reduceat(masses[:, None] * c.positions, first) / mass[:, None]
        arms = c.positions - c.per_atom(center)
        own = np.add.reduceat(self.charges[:, None] * arms + self.atomic_dipoles, first)
        reference = c.dipole - c.total_charge[:, None] * center
        own[(c.cell != 0.0).any((1, 2))] = np.nan
        return own, reference

    def charge_spread(self) -> dict[str, float]:
        """Standard deviation of latent charges of neutral configurations, by element and ``all``, e."""
        c = self.configurations
        charges = self.latent_charges
        neutral = c.per_atom(c.total_charge == 0.0) & np.isfinite(charges)
        spread = {"all": float(charges[neutral].std())} if neutral.any() else {}
        for z in np.unique(c.numbers[neutral]):
            spread[symbol(int(z))] = float(charges[neutral & (c.numbers == z)].std())
        return spread

    def mean_charges(self) -> dict[str, float]:
        """Mean latent charge of each element, e."""
        numbers = self.configurations.numbers
        return {symbol(int(z)): float(self.latent_charges[numbers == z].mean()) for z in np.unique(numbers)}

    def errors(self, chosen: np.ndarray | None = None) -> dict[str, float]:
        """Errors over the configurations of a mask [n], all of them by default.

        Forces over components, in eV/Å; energies in eV per atom; ``force_error`` is the mean
        length of the force error.
        """
        c = self.configurations
        chosen = np.ones(len(c), dtype=bool) if chosen is None else chosen
        force = (self.forces - c.forces)[c.per_atom(chosen)]
        energy = ((self.energy - c.energy) / c.sizes)[chosen]
        return {
            "configurations": int(chosen.sum()),
            "force_mae": float(np.abs(force).mean()),
            "force_rmse": float(np.sqrt((force**2).mean())),
            "force_error": float(np.linalg.norm(force, axis=1).mean()),
            "energy_mae": float(np.abs(energy).mean()),
            "energy_rmse": float(np.sqrt((energy**2).mean())),
        }

    def energy_offsets(self) -> dict[str, float]:
        """Median error of energies of configurations by total charge (e, as "-1"), eV each.

        A constant for all ions of one charge shows in no force.
        """
        c = self.configurations
        errors = self.energy - c.energy
        return {f"{q:g}": float(np.median(errors[c.total_charge == q])) for q in np.unique(c.total_charge)}

    def label_errors(self) -> dict[str, float]:
        """Mean errors of other labels in the measures of the loss (see `Losses`); NaN without any."""
        c = self.configurations
        own, reference = self.dipoles()
        volumes = np.abs(np.linalg.det(c.cell))
        errors = {
            "stress": np.linalg.norm(self.stress - c.stress, axis=(1, 2)) * volumes / c.sizes,
            "dipole": np.linalg.norm(own - reference, axis=1) / np.sqrt(c.sizes),
            "born_charges": np.linalg.norm(self.born_charges - c.born_charges, axis=(1, 2)),
            "polarizability": np.linalg.norm(self.polarizability - c.polarizability, axis=(1, 2)) / c.sizes,
        }
        return {name: _mean(values[np.isfinite(values)]) for name, values in errors.items()}

    def dipole_agreement(self, chosen: np.ndarray) -> dict[str, float] | None:
        """Own against reference dipole components over a mask [n], see `agreement`."""
        own, reference = self.dipoles()
        return agreement(reference[chosen], own[chosen])

    def stress_agreement(self, chosen: np.ndarray) -> dict[str, float] | None:
        """Own against reference stress components over a mask [n], see `agreement`."""
        return agreement(self.configurations.stress[chosen], self.stress[chosen])

    def born_charge_agreement(self, chosen: np.ndarray) -> dict[str, float] | None:
        """Own against reference components of Born charges over a mask [n], see `agreement`."""
        atoms = self.configurations.per_atom(chosen)
        return agreement(self.configurations.born_charges[atoms], self.born_charges[atoms])

    def polarizability_agreement(self, chosen: np.ndarray) -> dict[str, float] | None:
        """Own against reference components of polarizabilities over a mask [n], see `agreement`."""
        return agreement(self.configurations.polarizability[chosen], self.polarizability[chosen])

    def summary(self) -> dict[str, Any]:
        """Everything, JSON-ready: errors overall and by group, dipoles, charges."""
        c = self.configurations
        everything = np.ones(len(c), dtype=bool)
        neutral = c.total_charge == 0.0
        return {
            "units": {
                "force": "eV/Å",
                "energy": "eV/atom",
                "energy_offsets": "eV",
                "stress": "eV/Å³",
                "dipole": "e·Å",
                "charge": "e",
                "polarizability": "Å³",
            },
            "all": self._entry(everything),
            "charged": self._entry(~neutral) if (~neutral).any() else None,
            "groups": {str(name): self._entry(c.group == name) for name in np.unique(c.group)},
            "dipole_neutral": self.dipole_agreement(neutral),
            "dipole_charged": self.dipole_agreement(~neutral),
            "energy_offsets": self.energy_offsets(),
            "charge_spread_neutral": self.charge_spread(),
            "charge_mean": self.mean_charges(),
        }

    def _entry(self, chosen: np.ndarray) -> dict[str, Any]:
        return {
            **self.errors(chosen),
            "dipole": self.dipole_agreement(chosen),
            "stress": self.stress_agreement(chosen),
            "born_charges": self.born_charge_agreement(chosen),
            "polarizability": self.polarizability_agreement(chosen),
        }


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def agreement(reference: np.ndarray, found: np.ndarray) -> dict[str, float] | None:
    """How values follow their references, row by row ([n, ...]); rows with NaN do not count.

    ``r`` is Pearson's over all components, ``r_squared`` its square; ``slope`` that of found against
    reference through the origin. None with fewer than two rows.
    """
    axes = tuple(range(1, reference.ndim))
    both = np.isfinite(reference).all(axes) & np.isfinite(found).all(axes)
    if both.sum() < 2:
        return None
    x, y = reference[both].ravel(), found[both].ravel()
    correlated = x.std() > 0.0 and y.std() > 0.0  # charges of zero follow nothing
    r = float(np.corrcoef(x, y)[0, 1]) if correlated else 0.0
    return {
        "n": int(both.sum()),
        "r": r,
        "r_squared": r * r,
        "slope": float((x * y).sum() / (x * x).sum()) if correlated else 0.0,
        "mae": float(np.abs(x - y).mean()),
        "rmse": float(np.sqrt(((x - y) ** 2).mean())),
    }


def predict(model: LESModel, data: GraphData, batch_atoms: int = 400) -> Predictions:
    """Predictions of a model for all of ``data``, on the CPU; other labels' quantities where labelled."""
    c = data.configurations
    predictions = Predictions(c)
    has_stress = np.isfinite(c.stress).all((1, 2))
    has_born = np.minimum.reduceat(np.isfinite(c.born_charges).all((1, 2)), c.offsets[:-1])
    has_alpha = np.isfinite(data.polarizability.numpy()).all((1, 2)) & model.responds
    for batch in Batches(data, batch_atoms):
        indices = batch.indices.numpy()
        wanted = {
            "stress": bool(has_stress[indices].any()),
            "born_charges": bool(has_born[indices].any()),
            "polarizability": bool(has_alpha[indices].any()),
        }
        predictions.add(batch, predict_batch(model, batch, train=False, **wanted))
    return predictions


__all__ = ["SMALL_CHARGES", "Predictions", "agreement", "predict"]
