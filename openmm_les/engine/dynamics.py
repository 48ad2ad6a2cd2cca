"""Ensembles and the loop that runs dynamics, reports, and leaves a checkpoint behind."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import openmm
from openmm import app, unit

from openmm_les.engine.energies import EnergyMeter, EnergyRow, EnergyTable
from openmm_les.engine.run_directory import RunDirectory, write_atomically
from openmm_les.engine.trajectory import TrajectoryWriter
from openmm_les.exceptions import RunError

ENSEMBLES = ("nve", "nvt", "npt")

# Between two looks at the clock and at Ctrl-C: short enough for a person, long against a step.
_SECONDS_PER_CHUNK = 0.25
_MINIMIZER_ITERATIONS = 25  # between two looks at a request to stop
_MINIMIZER_TOLERANCE = 10.0  # kJ/mol/nm, root mean square force
_MINIMIZER_GAIN = 1.0  # kJ/mol, below which a round of iterations was the last
# Atoms that fly apart never come to NaN by themselves; no simulation of molecules is this hot.
_UNSTABLE_TEMPERATURE = 1e5  # K


def make_integrator(
    ensemble: str, *, timestep: float, temperature: float, friction: float, seed: int
) -> openmm.Integrator:
    """Verlet for NVE, Langevin (middle scheme) for NVT and NPT.

    Parameters
    ----------
    ensemble : one of `ENSEMBLES`
    timestep : fs
    temperature : K
    friction : 1/ps
    """
    if ensemble not in ENSEMBLES:
        raise ValueError(f"`ensemble` must be one of {', '.join(ENSEMBLES)}, got {ensemble!r}")
    if ensemble == "nve":
        integrator = openmm.VerletIntegrator(timestep * unit.femtosecond)
    else:
        integrator = openmm.LangevinMiddleIntegrator(
            temperature * unit.kelvin, friction / unit.picosecond, timestep * unit.femtosecond
        )
        integrator.setRandomNumberSeed(seed)
    # OpenMM's 1e-5 lets constrained water heat up by more than the ML forces do.
    integrator.setConstraintTolerance(1e-6)
    return integrator


def add_barostat(system: openmm.System, *, pressure: float, temperature: float, seed: int) -> None:
    """Add an isotropic Monte Carlo barostat; pressure in bar, temperature in K."""
    barostat = openmm.MonteCarloBarostat(pressure * unit.bar, temperature * unit.kelvin)
    barostat.setRandomNumberSeed(seed)
    system.addForce(barostat)


def make_context(
    system: openmm.System,
    integrator: openmm.Integrator,
    *,
    platform: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
) -> openmm.Context:
    """Context on the named platform, or on the fastest one that works.

    Precision and threads reach a platform that has a choice of them (GPUs and CPU, in turn).

    Raises
    ------
    ValueError
        for a platform that is not installed
    """
    names = platform_names()
    if platform is not None and platform not in names:
        raise ValueError(f"unknown platform {platform!r}: this OpenMM has {', '.join(names)}")
    # Fastest first. A platform can be installed without a device it could run on.
    candidates = [platform] if platform is not None else names[::-1]
    failures = []
    for name in candidates:
        chosen = openmm.Platform.getPlatform(name)
        wanted = {"Precision": precision, "Threads": None if threads is None else str(threads)}
        properties = {
            key: value
            for key, value in wanted.items()
            if value is not None and key in chosen.getPropertyNames()
        }
        try:
            return openmm.Context(system, integrator, chosen, properties)
        except openmm.OpenMMException as error:
            failures.append(f"{name}: {error}")
    raise RunError(f"no simulation could be set up: {'; '.join(failures)}")


def platform_names() -> list[str]:
    """Names of the installed platforms, slowest first."""
    count = openmm.Platform.getNumPlatforms()
    platforms = [openmm.Platform.getPlatform(i) for i in range(count)]
    return [platform.getName() for platform in sorted(platforms, key=lambda p: p.getSpeed())]


class StopRequest:
    """Whether the user asked to stop: Ctrl-C or a terminating signal while `listen` is open."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Turn the first SIGINT or SIGTERM into a flag; a second one acts as it always does."""
        handled = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.getsignal(number) for number in handled}

        def note(number: int, _frame: object) -> None:
            self.signal = signal.Signals(number)
            for each, handler in previous.items():
                signal.signal(each, handler)

        for number in handled:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def minimize(
    context: openmm.Context,
    *,
    max_iterations: int,
    stop: StopRequest,
    progress: Callable[[int, float], None],
) -> None:
    """Move a context's positions to a nearby minimum of the energy.

    Parameters
    ----------
    max_iterations : at most
    stop : looked at after every few iterations
    progress : called with the number of iterations and the energy in kJ/mol
    """
    energy = potential_energy(context)
    done = 0
    while done < max_iterations and not stop:
        count = min(_MINIMIZER_ITERATIONS, max_iterations - done)
        # OpenMM's Python signature fills in a reporter, and with one of those the call keeps
        # Python's global lock: torch refuses to differentiate, and TorchForce ends the process.
        openmm.openmm._openmm.LocalEnergyMinimizer_minimize(context, _MINIMIZER_TOLERANCE, count)
        done += count
        before, energy = energy, potential_energy(context)
        progress(done, energy)
        if not before - energy > _MINIMIZER_GAIN:
            break


def potential_energy(context: openmm.Context) -> float:
    """Potential energy of a context, kJ/mol."""
    energy = context.getState(energy=True).getPotentialEnergy()
    return float(energy.value_in_unit(unit.kilojoule_per_mole))


@dataclass
class RunPlan:
    """How long a run is and how often it writes."""

    total_steps: int
    timestep: float
    """fs"""
    report_interval: int
    """steps between rows of the table"""
    frame_interval: int
    """steps between frames of the trajectory"""
    checkpoint_seconds: float
    """wall-clock seconds between checkpoints"""


@dataclass
class Run:
    """A context that moves through a plan, its output kept in step with its checkpoint."""

    context: openmm.Context
    topology: app.Topology
    directory: RunDirectory
    plan: RunPlan
    stop: StopRequest = field(default_factory=StopRequest)
    further_columns: Sequence[str] = ()
    """of the table, beside `openmm_les.engine.energies.COLUMNS`"""
    further_values: Callable[[openmm.Context], Sequence[float]] | None = None
    """what stands in them"""

    def start(self) -> None:
        """Open new output files, and write the row and the checkpoint of step 0."""
        self._open(resume=False)
        try:
            self._report(0, speed=None)
            self._checkpoint()
        except RunError:
            self.close()
            raise

    def resume(self) -> None:
        """Load the checkpoint and cut the output files back to it.

        Raises
        ------
        ValueError
            when the run is as long as planned
        RunError
            when the checkpoint or the output files cannot be continued
        """
        try:
            self.context.loadCheckpoint(self.directory.checkpoint.read_bytes())
        except openmm.OpenMMException as error:
            raise RunError(
                f"{self.directory.checkpoint} cannot be read by this OpenMM and platform: {error}"
            ) from error
        if self.step >= self.plan.total_steps:
            raise ValueError(
                f"the run in {self.directory.path} is complete ({self.step} steps);"
                " give a longer --steps or --ps to extend it"
            )
        try:
            self._open(resume=True)
        except ValueError as error:
            raise RunError(f"cannot continue: {error}") from error

    @property
    def step(self) -> int:
        """Steps done since the start of the run."""
        return int(self.context.getStepCount())

    def state(self) -> openmm.State:
        """Positions, molecules wrapped into the box where there is one, and the box.

        Raises
        ------
        RunError
            when a position is not finite
        """
        # OpenMM wraps without asking: into its default box of 2 nm where there is none.
        periodic = self.context.getSystem().usesPeriodicBoundaryConditions()
        state = self.context.getState(positions=True, enforcePeriodicBox=periodic)
        if not np.isfinite(state.getPositions(asNumpy=True)).all():
            raise self._unstable(self.step, "positions are not finite")
        return state

    def advance(self, progress: Callable[[int, EnergyRow | None], None]) -> None:
        """Run to the end of the plan, or until a stop is requested; leaves a checkpoint behind.

        Parameters
        ----------
        progress : called with the step after each chunk, and with the row when one was written

        Raises
        ------
        RunError
            when the dynamics becomes unstable; the last good checkpoint is kept
        """
        plan, step = self.plan, self.step
        integrator = self.context.getIntegrator()
        chunk = 1
        saved_at = reported_at = time.perf_counter()
        reported_step = step
        while step < plan.total_steps and not self.stop:
            begin = time.perf_counter()
            count = min(chunk, self._next_output(step) - step)
            try:
                integrator.step(count)
            except openmm.OpenMMException as error:
                if self.stop:  # a second Ctrl-C in the middle of a force call of Python's
                    raise KeyboardInterrupt from error
                raise self._unstable(step, str(error)) from error
            now = time.perf_counter()
            step += count
            chunk = max(1, min(2 * chunk, int(_SECONDS_PER_CHUNK * count / (now - begin))))
            row = None
            if step % plan.report_interval == 0:
                days = (now - reported_at) / 86400
                row = self._report(step, (step - reported_step) * plan.timestep * 1e-6 / days)
                reported_at, reported_step = now, step
            if step % plan.frame_interval == 0:
                self._trajectory.write(self.state())
            if now - saved_at > plan.checkpoint_seconds:
                self._checkpoint()
                saved_at = time.perf_counter()
            progress(step, row)
        self._checkpoint()

    def close(self) -> None:
        """Close the output files."""
        self._table.close()
        self._trajectory.close()

    def _open(self, *, resume: bool) -> None:
        step, plan, files = self.step, self.plan, self.directory
        self._meter = EnergyMeter(self.context.getSystem())
        self._table = EnergyTable(
            files.energies, keep_until=step if resume else None, further=self.further_columns
        )
        self._trajectory = TrajectoryWriter(
            files.trajectory,
            self.topology,
            plan.timestep * 1e-3,
            plan.frame_interval,
            keep_frames=step // plan.frame_interval if resume else None,
        )

    def _next_output(self, step: int) -> int:
        intervals = (self.plan.report_interval, self.plan.frame_interval)
        return min(self.plan.total_steps, *((step // n + 1) * n for n in intervals))

    def _report(self, step: int, speed: float | None) -> EnergyRow:
        row = self._meter.row(step, self.context.getState(energy=True), speed)
        if not math.isfinite(row.total_energy):
            raise self._unstable(step, "the energy is not finite")
        if row.temperature > _UNSTABLE_TEMPERATURE:
            raise self._unstable(step, f"the temperature rose to {row.temperature:.3g} K")
        self._table.write(row, () if self.further_values is None else self.further_values(self.context))
        return row

    def _checkpoint(self) -> None:
        state = self.context.getState(
            positions=True, velocities=True, energy=True, parameters=True, integratorParameters=True
        )
        energy = state.getPotentialEnergy() + state.getKineticEnergy()
        if not math.isfinite(energy.value_in_unit(unit.kilojoule_per_mole)):
            raise self._unstable(self.step, "the energy is not finite")
        write_atomically(self.directory.checkpoint, self.context.createCheckpoint())
        write_atomically(self.directory.state, openmm.XmlSerializer.serialize(state))

    def _unstable(self, step: int, reason: str) -> RunError:
        picoseconds = step * self.plan.timestep * 1e-3
        return RunError(
            f"the run became unstable after step {step} ({picoseconds:.3f} ps): {reason.strip()};"
            f" the files up to the last checkpoint are in {self.directory.path}"
        )
