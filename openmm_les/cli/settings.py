"""What a simulation was asked to do, checked, and kept beside its results."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

DEFAULT_FORCE_FIELD = ("amber14-all.xml", "amber14/tip3p.xml")
ALL = "all"
NONE = "none"


@dataclass(frozen=True)
class Settings:
    """Settings of one run; the unit of each is in the help text of its option."""

    structure: tuple[str, ...]
    ml: str
    model: str | None
    steps: int
    seed: int
    force_field: tuple[str, ...] = DEFAULT_FORCE_FIELD
    embedding: str = "mechanical"
    charge: float | None = None
    ensemble: str = "nvt"
    temperature: float = 300.0
    pressure: float = 1.0
    friction: float = 1.0
    timestep: float = 0.5
    electric_field: tuple[float, float, float] | None = None
    cutoff: float = 1.0
    solvate: bool = False
    padding: float = 1.0
    ionic_strength: float = 0.0
    minimize: bool = True
    minimize_iterations: int = 200
    platform: str | None = None
    precision: str | None = None
    route: str = "auto"
    threads: int | None = None
    format: str = "dcd"
    report_interval: int = 100
    frame_interval: int = 1000
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        positive = (
            "steps",
            "timestep",
            "temperature",
            "friction",
            "cutoff",
            "padding",
            "minimize_iterations",
            "report_interval",
            "frame_interval",
            "checkpoint_seconds",
        )
        for name in positive:
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{_flag(name)} must be positive, got {value}")
        if not (self.ionic_strength >= 0 and math.isfinite(self.ionic_strength)):
            raise ValueError(f"--ionic-strength must not be negative, got {self.ionic_strength}")
        if self.electric_field is not None and not all(math.isfinite(x) for x in self.electric_field):
            raise ValueError(f"--electric-field must be three numbers of V/nm, got {self.electric_field}")
        if not math.isfinite(self.pressure):
            raise ValueError(f"--pressure must be a number of bar, got {self.pressure}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"--threads must be positive, got {self.threads}")
        if not 1 <= self.seed < 2**31:
            raise ValueError(f"--seed must lie between 1 and {2**31 - 1}, got {self.seed}")
        if self.charge is not None and not math.isfinite(self.charge):
            raise ValueError(f"--charge must be a number, got {self.charge}")
        if self.ml == ALL and self.embedding == "electrostatic":
            raise ValueError("--embedding electrostatic is for a region among MM atoms; --ml all leaves none")
        if self.ml == NONE and (self.model is not None or self.charge is not None):
            raise ValueError("--model and --charge are of ML atoms; --ml none has none")

    def to_json(self, **resolved: Any) -> str:
        """The settings, and whatever was worked out from them, as JSON."""
        return json.dumps({"settings": asdict(self), "resolved": resolved}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> tuple[Settings, dict[str, Any]]:
        """Settings and resolved values that `to_json` wrote.

        Raises
        ------
        ValueError
            for a damaged file, or one of another version
        """
        try:
            document = json.loads(text)
            values, resolved = document["settings"], document["resolved"]
            for name in ("structure", "force_field"):
                values[name] = tuple(values[name])
            if values.get("electric_field") is not None:
                values["electric_field"] = tuple(values["electric_field"])
            unknown = set(values) - {field.name for field in fields(cls)}
            if unknown:
                raise ValueError(f"unknown settings {', '.join(sorted(unknown))}")
            return cls(**values), dict(resolved)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"the settings of the run cannot be read: {error}") from error

    def with_steps(self, steps: int) -> Settings:
        """The same settings with another length."""
        return replace(self, steps=steps)


def steps_of(steps: int | None, picoseconds: float | None, timestep: float) -> int:
    """Length of a run in steps, from exactly one of ``--steps`` and ``--ps``."""
    if (steps is None) == (picoseconds is None):
        raise ValueError("give the length of the run by one of --steps and --ps")
    if steps is not None:
        if steps <= 0:
            raise ValueError(f"--steps must be positive, got {steps}")
        return steps
    assert picoseconds is not None
    if not (picoseconds > 0 and math.isfinite(picoseconds)):
        raise ValueError(f"--ps must be positive, got {picoseconds}")
    if not (timestep > 0 and math.isfinite(timestep)):
        raise ValueError(f"--timestep must be positive, got {timestep}")
    return max(1, round(picoseconds * 1e3 / timestep))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
