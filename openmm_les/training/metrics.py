"""Errors of a model on labelled data, overall and by group; dipoles; health of the charges."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase.data import atomic_masses
from torch import Tensor, nn

from openmm_les.elements import symbol
from openmm_les.models.model import Prediction
from openmm_les.training.batches import Batch, Batches, GraphData
from openmm_les.training.data import Configurations
from openmm_les.training.loss import predict_with_forces

SMALL_CHARGES = 0.05
"""e: a smaller standard deviation of the charges of neutral configurations means that the Coulomb
term is as good as switched off (the energy is quadratic in the charges, zero is stationary)."""


class Predictions:
    """Predictions for a data set, collected batch by batch."""

    def __init__(self, configurations: Configurations) -> None:
        self.configurations = configurations
        n_atoms = int(configurations.offsets[-1])
        self.energy = np.full(len(configurations), np.nan)  # eV
        self.forces = np.full((n_atoms, 3), np.nan)  # eV/Å
        self.charges = np.full(n_atoms, np.nan)  # e

    def add(self, batch: Batch, prediction: Prediction, energy: Tensor, forces: Tensor) -> None:
        """Results of one batch."""
        indices = batch.indices.cpu().numpy()
        self.energy[indices] = energy.detach().cpu().numpy()
        offsets = self.configurations.offsets
        atoms = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in indices])
        self.forces[atoms] = forces.detach().cpu().numpy()
        self.charges[atoms] = prediction.latent_charges.detach().cpu().numpy()

    def dipoles(self) -> tuple[np.ndarray, np.ndarray]:
        """Latent and reference dipoles about the centres of mass, [n, 3] in e·Å; NaN if periodic."""
        c = self.configurations
        first = c.offsets[:-1]
        masses = atomic_masses[c.numbers]
        mass = np.add.reduceat(masses, first)
        center = np.add.reduceat(masses[:, None] * c.positions, first) / mass[:, None]
        arms = c.positions - c.per_atom(center)
        latent = np.add.reduceat(self.charges[:, None] * arms, first)
        reference = c.dipole - c.total_charge[:, None] * center
        latent[(c.cell != 0.0).any((1, 2))] = np.nan
        return latent, reference

    def charge_spread(self) -> dict[str, float]:
        """Standard deviation of the charges of neutral configurations, by element and ``all``, e."""
        c = self.configurations
        neutral = c.per_atom(c.total_charge == 0.0) & np.isfinite(self.charges)
        spread = {"all": float(self.charges[neutral].std())} if neutral.any() else {}
        for z in np.unique(c.numbers[neutral]):
            spread[symbol(int(z))] = float(self.charges[neutral & (c.numbers == z)].std())
        return spread

    def mean_charges(self) -> dict[str, float]:
        """Mean charge of each element, e."""
        numbers = self.configurations.numbers
        return {symbol(int(z)): float(self.charges[numbers == z].mean()) for z in np.unique(numbers)}

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

    def dipole_agreement(self, chosen: np.ndarray) -> dict[str, float] | None:
        """Latent against reference dipole components over a mask [n]; None with fewer than two.

        ``r`` is Pearson's; ``slope`` that of latent against reference through the origin.
        """
        latent, reference = self.dipoles()
        labelled = chosen & np.isfinite(latent).all(1) & np.isfinite(reference).all(1)
        if labelled.sum() < 2:
            return None
        x, y = reference[labelled].ravel(), latent[labelled].ravel()
        correlated = x.std() > 0.0 and y.std() > 0.0  # charges of zero follow nothing
        return {
            "configurations": int(labelled.sum()),
            "r": float(np.corrcoef(x, y)[0, 1]) if correlated else 0.0,
            "slope": float((x * y).sum() / (x * x).sum()),
            "mae": float(np.abs(x - y).mean()),
        }

    def summary(self) -> dict[str, Any]:
        """Everything, JSON-ready: errors overall and by group, dipoles, charges."""
        c = self.configurations
        everything = np.ones(len(c), dtype=bool)
        neutral = c.total_charge == 0.0
        groups = {}
        for name in np.unique(c.group):
            inside = c.group == name
            groups[str(name)] = {
                **self.errors(inside),
                "dipole": self.dipole_agreement(inside),
            }
        return {
            "units": {"force": "eV/Å", "energy": "eV/atom", "dipole": "e·Å", "charge": "e"},
            "all": {**self.errors(), "dipole": self.dipole_agreement(everything)},
            "groups": groups,
            "dipole_neutral": self.dipole_agreement(neutral),
            "dipole_charged": self.dipole_agreement(~neutral),
            "charge_spread_neutral": self.charge_spread(),
            "charge_mean": self.mean_charges(),
        }


def predict(model: nn.Module, data: GraphData, batch_atoms: int = 400) -> Predictions:
    """Predictions of a model for all of ``data``, on the CPU."""
    predictions = Predictions(data.configurations)
    for batch in Batches(data, batch_atoms):
        predictions.add(batch, *predict_with_forces(model, batch, train=False))
    return predictions


__all__ = ["SMALL_CHARGES", "Predictions", "predict"]
