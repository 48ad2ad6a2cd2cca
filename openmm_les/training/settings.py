"""What defines a training run; written beside its results."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from openmm_les.exceptions import DataError
from openmm_les.models.equilibration import CONSERVED
from openmm_les.models.multipole_sources import POLARIZABILITIES
from openmm_les.training.labels import BORN_CHARGES_ORDERS, LabelFormat


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of a training run. At least one of the three limits must be given."""

    data: tuple[str, ...]
    """files, as `read_configurations` takes them"""
    valid: tuple[str, ...] = ()
    """files used for validation; empty: the files' own split, or a part held out by molecule"""
    init: str = ""
    """a model to train further, by name or file: its architecture, smearing and charge head go on"""
    max_steps: int | None = None
    max_minutes: float | None = None
    """wall time of training, interruptions not counted"""
    epochs: float | None = None
    name: str = "model"
    level_of_theory: str = ""
    energy_key: str = ""
    """names, units and order of labels: see `LabelFormat`"""
    forces_key: str = ""
    stress_key: str = ""
    dipole_key: str = ""
    born_charges_key: str = ""
    polarizability_key: str = ""
    charge_key: str = ""
    energy_unit: str = ""
    length_unit: str = ""
    force_unit: str = ""
    stress_unit: str = ""
    dipole_unit: str = ""
    born_charges_order: str = BORN_CHARGES_ORDERS[0]
    reference_energies: str = ""
    """"H=-13.6,O=-2041.2": eV of each element; empty: fitted to the training data"""
    groups: str = ""
    """"one,another": train on these groups of the data only"""
    group_shares: str = ""
    """"stretched=0.3,contacts=0.5": the part of all passes over the data that these groups join"""
    max_force: float = 10.0
    """eV/Å; configurations with larger forces are dropped"""
    valid_fraction: float = 0.1
    max_valid: int = 1000
    """configurations validated on during training, at most"""
    cutoff: float = 4.5
    """Å"""
    channels: int = 48
    message_channels: int = 8
    layers: int = 2
    smearing: float = 1.0
    """Å"""
    batch_atoms: int = 160
    learning_rate: float = 4e-3
    weight_decay: float = 3e-2
    warm_up: int = 200
    gradient_clip: float = 10.0
    ema: float = 0.997
    force_weight: float = 1.0
    """of the mean length of the force error"""
    energy_weight: float = 4.0
    """1/Å, of the energy error per atom"""
    stress: bool = False
    """train on stress labels, too"""
    stress_weight: float = 1.0
    """1/Å, of the error of the virial per atom"""
    dipoles: bool = False
    """tune charges on dipole labels of isolated molecules, too"""
    dipole_weight: float = 1.0
    """V/Å, of the length of the dipole error over the root of the number of atoms"""
    born_charges: bool = False
    """tune charges on Born-charge labels, too"""
    born_charges_weight: float = 0.2
    """V/Å, of the size of the Born-charge error of an atom"""
    polarizability_labels: bool = False
    """tune polarizabilities on labels of isolated molecules, too"""
    polarizability_weight: float = 1.0
    """eV/Å⁴, of the size of the error of a polarizability over the number of atoms"""
    molecule_weight: float = 0.0
    """of the error of the net force and torque on molecules among others; see `molecule_error`"""
    latent_dipoles: bool = False
    """latent dipoles beside the charges; see `MultipoleSources`"""
    latent_quadrupoles: bool = False
    polarizability: str = ""
    """"isotropic" or "tensor": induced dipoles, self-consistent; empty: none"""
    short_range_only: bool = False
    """no latent charges: the same backbone without the Coulomb term"""
    equilibration: bool = False
    """charges that minimise an energy instead of being read off the features; see `ChargeEquilibration`"""
    charge_embedding: bool = False
    """energies and features depend on the charge of an atom's own molecule; see `ChargeEmbedding`"""
    conserve: str = CONSERVED[0]
    """what keeps its total charge in `equilibration`: each "molecule" or "configuration" as a whole"""
    freeze_backbone: bool = False
    """train the charge head only (with `init`)"""
    elements: str = ""
    """"H,O": those that the model is for, others it refuses; empty: all that it learned"""
    charge_start: float = 0.15
    """fraction of the run in which charges stay at the elements' values, see `LESTraining`; with `init` they
    go on from the first step"""
    charge_gain: float = 0.1
    """e, by which the network's output counts in the charges; larger: charges learn faster"""
    late_energy_factor: float = 5.0
    """on the energy weight, from `late_start` on"""
    late_start: float = 0.7
    """fraction of the run"""
    validate_every: int = 1000
    """steps"""
    patience: int = 0
    """validations without a better one after which training stops; 0: it does not"""
    tensorboard: bool = False
    """write the log for TensorBoard, too"""
    save_minutes: float = 5.0
    seed: int = 0
    dtype: str = "float32"
    accelerator: str = "auto"
    devices: int = 1
    """processes on each node, one per device"""
    nodes: int = 1
    strategy: str = "auto"
    """Lightning's name of a way to share work among processes"""
    threads: int = 0
    """0: torch's own choice"""

    def __post_init__(self) -> None:
        if not self.data:
            raise DataError("no training data given")
        if self.max_steps is None and self.max_minutes is None and self.epochs is None:
            raise DataError("say how long to train: max_steps, max_minutes or epochs")
        positive = (
            "max_steps max_minutes epochs max_force max_valid cutoff channels message_channels layers "
            "smearing batch_atoms learning_rate warm_up gradient_clip energy_weight "
            "late_energy_factor validate_every save_minutes devices nodes stress_weight dipole_weight "
            "born_charges_weight charge_gain polarizability_weight"
        )
        for name in positive.split():
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise DataError(f"`{name}` must be positive, got {value}")
        for name in ("valid_fraction", "ema", "late_start", "charge_start"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise DataError(f"`{name}` must lie between 0 and 1, got {getattr(self, name)}")
        for name in ("weight_decay", "seed", "threads", "patience", "force_weight", "molecule_weight"):
            if not getattr(self, name) >= 0:
                raise DataError(f"`{name}` must not be negative, got {getattr(self, name)}")
        if self.dtype not in ("float32", "float64"):
            raise DataError(f"`dtype` must be float32 or float64, got {self.dtype!r}")
        if self.freeze_backbone and not self.init:
            raise DataError("`freeze_backbone` trains the charges of a trained model: say which with `init`")
        if self.freeze_backbone and self.charge_embedding:
            raise DataError(
                "`charge_embedding` is a part of the backbone, which `freeze_backbone` leaves untrained"
            )
        if self.polarizability not in POLARIZABILITIES:
            raise DataError(
                f"`polarizability` must be isotropic or tensor, or empty; got {self.polarizability!r}"
            )
        if self.multipoles and (self.short_range_only or self.equilibration):
            raise DataError(
                "latent dipoles, quadrupoles and polarizabilities go with charges from features: without "
                "`short_range_only` and `equilibration`"
            )
        if self.short_range_only and (
            self.freeze_backbone or self.dipoles or self.born_charges or self.equilibration
        ):
            raise DataError(
                "`short_range_only` has no charges to train: no `dipoles`, `born_charges`, "
                "`freeze_backbone`, `equilibration`"
            )
        if self.conserve not in CONSERVED:
            raise DataError(f"`conserve` must be one of {', '.join(CONSERVED)}, got {self.conserve!r}")
        if self.conserve != CONSERVED[0] and not self.equilibration:
            raise DataError(f"`conserve` {self.conserve!r} is for `equilibration`")
        _ = self.labels  # which checks itself

    @property
    def multipoles(self) -> bool:
        """Whether anything beside charges is asked for."""
        return self.latent_dipoles or self.latent_quadrupoles or self.polarizability != ""

    @property
    def labels(self) -> LabelFormat:
        """Names and units of labels."""
        return LabelFormat(**{name: getattr(self, name) for name in LabelFormat.names()})

    @property
    def labels_used(self) -> list[str]:
        """What the loss is made of, in words."""
        stress = ["stress"] if self.stress else []
        forces = ["forces"] if self.force_weight > 0.0 or self.molecule_weight > 0.0 else []
        return ["energies", *forces, *stress, *self.tuned_on]

    @property
    def tuned_on(self) -> list[str]:
        """What else than energies and their derivatives that is, in words."""
        used = {
            "dipoles": self.dipoles,
            "Born charges": self.born_charges,
            "polarizabilities": self.polarizability_labels,
        }
        return [name for name in used if used[name]]

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> TrainingSettings:
        """From JSON as `write` made it."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise DataError(f"{path} cannot be read: {error}") from error
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise DataError(f"{path} has unknown settings: {', '.join(sorted(unknown))}")
        if "data" not in values:
            raise DataError(f"{path} holds no settings of a run: `data` is missing")
        return cls(**{**values, "data": tuple(values["data"]), "valid": tuple(values.get("valid", ()))})


__all__ = ["TrainingSettings"]
