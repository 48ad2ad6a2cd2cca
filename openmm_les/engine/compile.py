"""From module to script, checked: eager, scripted and frozen must give the same numbers."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from openmm_les.engine.boundary import ForceBoundary
from openmm_les.exceptions import RouteError

# Relative differences that reordered arithmetic may make.
_TOLERANCES = {torch.float32: 2e-4, torch.float64: 1e-9}


def compile_force(
    force: ForceBoundary,
    positions: Tensor | None = None,
    box: Tensor | None = None,
    optimized: bool = True,
) -> torch.jit.ScriptModule:
    """Scripted module, after a check that it and its frozen form agree with the eager one.

    Parameters
    ----------
    force : the module that OpenMM is to run
    positions : [n_particles, 3], nm, where to compare; None = do not compare
    box : [3, 3], nm; needed where ``force`` is periodic
    optimized : compare the form that TorchScript's optimiser makes from the third run on, too; it
        is what TorchForce runs, and takes seconds

    Raises
    ------
    RouteError
        The module does not compile, or its forms differ.
    """
    with _without_deprecation():
        try:
            script = torch.jit.script(force)
        except (RuntimeError, torch.jit.frontend.FrontendError) as error:
            raise RouteError(f"the model does not compile to TorchScript: {error}") from error
        if positions is not None:
            check_forms(force, script, positions, box, optimized)
    return script


def check_forms(
    force: ForceBoundary,
    script: torch.jit.ScriptModule,
    positions: Tensor,
    box: Tensor | None,
    optimized: bool = True,
) -> None:
    """Raise `RouteError` unless eager, scripted and frozen energies and forces agree.

    Parameters as in `compile_force`. Tolerances follow the precision and the size of the forces;
    total energies, mostly reference energies in double, are held to far more digits.
    """
    tolerance = _TOLERANCES[force.dtype]
    script = reloaded(script)
    frozen = freeze(script)
    results = {
        "eager": _run(force, force, positions, box),
        "scripted": _run(script, force, positions, box),
        "frozen": _run(frozen, force, positions, box),
    }
    if optimized:
        for _ in range(3):  # two runs to learn from, then the optimised one
            results["optimised"] = _run(frozen, force, positions, box)
    energy, forces = results["eager"]
    scale = float(forces.abs().max())
    for name, (other_energy, other_forces) in results.items():
        force_error = float((other_forces - forces).abs().max())
        energy_error = abs(other_energy - energy)
        energy_scale = 1e-3 * abs(energy) + 0.1 * scale * len(force.numbers)  # 0.1 nm times force
        if not (force_error <= tolerance * scale and energy_error <= tolerance * energy_scale):
            raise RouteError(
                f"the {name} module differs from the eager one by {force_error:.3g} kJ/mol/nm in "
                f"forces (of {scale:.3g}) and {energy_error:.3g} kJ/mol in energy (of {energy:.6g}); "
                "the model cannot be trusted in OpenMM"
            )


def freeze(script: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """Frozen form of a scripted module; what TorchForce runs."""
    with _without_deprecation():
        return torch.jit.freeze(script.eval())


def archive_of(script: torch.jit.ScriptModule) -> bytes:
    """What `torch.jit.save` writes."""
    buffer = io.BytesIO()
    with _without_deprecation():
        torch.jit.save(script, buffer)
    return buffer.getvalue()


def from_archive(archive: bytes, device: torch.device | None = None) -> torch.jit.ScriptModule:
    """What `archive_of` was made of, on a device (None = where it was)."""
    import vesin_torch  # noqa: F401  registers a TorchScript class that the archive may hold

    with _without_deprecation():
        return torch.jit.load(io.BytesIO(archive), map_location=device).eval()


def reloaded(script: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """The same module with code of its own, which goes when it goes.

    What TorchScript's optimiser makes of a module that was scripted here stays until the process ends,
    some 65 MB of each.
    """
    return from_archive(archive_of(script))


@contextmanager
def _without_deprecation() -> Iterator[None]:
    """torch >= 2.10 calls TorchScript deprecated; it is what TorchForce runs."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=DeprecationWarning)
        yield


def _run(
    form: torch.nn.Module, force: ForceBoundary, positions: Tensor, box: Tensor | None
) -> tuple[float, Tensor]:
    arguments = [positions] if box is None or not force.periodic else [positions, box]
    arguments += [torch.tensor(value, dtype=torch.float64) for value in force.trial_parameters]
    energy, forces = form(*arguments)
    return float(energy.detach()), forces.detach()


def trial_positions(n_atoms: int, box: Tensor | None = None) -> Tensor:
    """Positions for `check_forms` where no real ones are known, [n_atoms, 3] double, nm.

    A jittered lattice: of spacing 0.16 nm, or filling ``box`` ([3, 3], nm) where that is narrower.
    """
    side = max(1, round(n_atoms ** (1.0 / 3.0)))
    while side**3 < n_atoms:
        side += 1
    steps = torch.arange(side, dtype=torch.float64)
    lattice = torch.cartesian_prod(steps, steps, steps)[:n_atoms]
    jitter = torch.rand(lattice.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    lattice = lattice + 0.2 * jitter
    if box is None:
        return 0.16 * lattice
    widths = torch.linalg.norm(box.to(torch.float64), dim=1)
    return torch.clamp(0.16 * side / widths, max=1.0) * lattice / side @ box.to(torch.float64)


__all__ = [
    "archive_of",
    "check_forms",
    "compile_force",
    "freeze",
    "from_archive",
    "reloaded",
    "trial_positions",
]
