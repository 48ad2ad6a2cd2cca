"""Starts and continues runs: puts the pieces of the engine together as the settings say."""

from __future__ import annotations

import hashlib
import math
import random
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import openmm
from openmm import app, unit

from openmm_les.analysis.energies import plot_energies, read_energies, summarize
from openmm_les.cli import bonds, novelty
from openmm_les.cli.console import RunProgress, log_to_stderr, note, say, stderr, stdout, summary_table
from openmm_les.cli.settings import ALL, DEFAULT_FORCE_FIELD, NONE, Settings, steps_of
from openmm_les.engine import dynamics, inputs
from openmm_les.engine.energies import EnergyRow
from openmm_les.engine.run_directory import (
    RunDirectory,
    topology_from_json,
    topology_to_json,
    write_atomically,
    write_pdb,
)
from openmm_les.exceptions import RunError
from openmm_les.folders import sole_process

if TYPE_CHECKING:  # a run of a force field alone needs no torch
    from openmm_les.engine.field_energy import FieldEnergy

_VERSIONS = ("openmm-les", "openmm", "openmmtorch", "torch", "openmmml")
# Waters that Modeller can place for a force field's water, by the number of sites.
_WATER_MODELS = {"tip4p": "tip4pew", "opc.": "tip4pew", "tip5p": "tip5p", "spce": "spce"}


@dataclass
class Molecules:
    """The system of a run before dynamics is added: what is simulated, and by what."""

    topology: app.Topology
    mm_system: openmm.System | None
    """None where all atoms are ML"""
    ml_atoms: list[int]
    """empty for a run of the force field alone"""


def start_run(settings: Settings, output: Path) -> int:
    """Set up a new run in an empty folder and run it; exit code."""
    log_to_stderr()
    directory = RunDirectory(output, settings.format)
    stop = dynamics.StopRequest()
    with directory.reserve(), sole_process(directory.path), stop.listen():
        structure = _prepare(settings)
        topology = structure.topology
        ml_atoms = select_atoms(topology, settings.ml)
        if settings.ml != ALL:
            _refuse_added_ions(structure, ml_atoms, settings.ml)
        mm_system = None
        if settings.ml != ALL:
            mm_system = inputs.build_mm_system(
                structure, _force_field(settings, structure), cutoff=settings.cutoff
            )
        molecules = Molecules(topology, mm_system, ml_atoms)
        context = _make_context(settings, molecules, settings.seed)
        _settle(context, structure.positions, settings, stop)
        if stop:
            note("stopped before the first step; nothing is kept")
            return _stopped(stop)
        run = _make_run(context, topology, directory, settings, stop)
        write_pdb(directory.initial, topology, run.state())
        if mm_system is not None:
            write_atomically(directory.mm_system, openmm.XmlSerializer.serialize(mm_system))
        write_atomically(directory.topology, topology_to_json(topology))
        write_atomically(
            directory.settings,
            settings.to_json(
                ml_atoms=ml_atoms,
                model_sha256=_model_hash(settings),
                platform=context.getPlatform().getName(),
                versions=_versions(),
            ),
        )
        run.start()
        return _finish(run, settings)


def resume_run(path: Path, steps: int | None, picoseconds: float | None) -> int:
    """Continue the run in a folder, to its planned length or a new one; exit code."""
    log_to_stderr()
    directory = RunDirectory(path)
    if not directory.settings.is_file():
        raise FileNotFoundError(f"{path} holds no run to resume: {directory.settings.name} is missing")
    settings, resolved = Settings.from_json(directory.settings.read_text())
    if steps is not None or picoseconds is not None:
        settings = settings.with_steps(steps_of(steps, picoseconds, settings.timestep))
    directory = RunDirectory(path, settings.format)
    directory.check_resumable()
    if resolved.get("model_sha256") != _model_hash(settings):
        raise ValueError(
            f"the model {settings.model or '(the default)'} is not the one the run was started with: its "
            "weights have changed. Resume with those, or start a new run"
        )
    stop = dynamics.StopRequest()
    with sole_process(path), stop.listen():
        topology = topology_from_json(directory.topology.read_text())
        mm_system = None
        if settings.ml != ALL:
            mm_system = openmm.XmlSerializer.deserialize(directory.mm_system.read_text())
            if settings.ensemble == "npt" and directory.state.is_file():
                # The coupling's cutoff goes by the box, which a barostat may have shrunk since.
                state = openmm.XmlSerializer.deserialize(directory.state.read_text())
                mm_system.setDefaultPeriodicBoxVectors(*state.getPeriodicBoxVectors())
        molecules = Molecules(topology, mm_system, resolved["ml_atoms"])
        # A checkpoint holds the random numbers of the integrator but not those of the barostat:
        # new ones for it, rather than the first ones again.
        context = _make_context(settings, molecules, draw_seed(), resolved["platform"])
        run = _make_run(context, topology, directory, settings, stop)
        run.resume()
        write_atomically(directory.settings, settings.to_json(**resolved))
        note(f"resuming at step {run.step} of {settings.steps}")
        return _finish(run, settings)


def draw_seed() -> int:
    """A seed that OpenMM takes as such (0 would mean to draw one itself)."""
    return random.SystemRandom().randrange(1, 2**31)


def select_atoms(topology: app.Topology, selection: str) -> list[int]:
    """Indices of the atoms that an mdtraj selection, ``all`` or ``none`` names.

    Raises
    ------
    ValueError
        for a selection that cannot be read or selects nothing, or atoms of no known element
    """
    atoms = list(topology.atoms())
    if selection == NONE:
        return []
    if selection == ALL:
        indices = list(range(len(atoms)))
    else:
        import mdtraj

        try:
            found = mdtraj.Topology.from_openmm(topology).select(selection)
        except Exception as error:  # mdtraj compiles selections to Python, and anything may come out
            reason = str(error).splitlines()[0][:100]
            raise ValueError(
                f"--ml {selection!r} is not a selection that mdtraj understands: {reason}"
            ) from error
        indices = [int(i) for i in found]
    if not indices:
        raise ValueError(f"--ml {selection!r} selects no atoms")
    for index in indices:
        if atoms[index].element is None:
            residue = atoms[index].residue
            raise ValueError(
                f"the element of ML atom {index} ({residue.name} {residue.id} {atoms[index].name})"
                " is unknown: name it in the structure file (columns 77-78 of a PDB file)"
            )
    return indices


def _refuse_added_ions(structure: inputs.Structure, ml_atoms: Sequence[int], selection: str) -> None:
    """Raise ValueError where a selection of the solute, such as "not water", takes in ions of the solvent."""
    if structure.first_added is None:
        return
    for index, atom in enumerate(structure.topology.atoms()):
        added = index >= structure.first_added and len(list(atom.residue.atoms())) == 1
        if added and index in ml_atoms:
            raise ValueError(
                f"--ml {selection!r} takes in ions that --solvate adds ({atom.residue.name}): name the "
                "solute, as in --ml protein"
            )


def _prepare(settings: Settings) -> inputs.Structure:
    structure = inputs.read_structure([Path(path) for path in settings.structure])
    if structure.prmtop is not None and settings.force_field != DEFAULT_FORCE_FIELD:
        raise ValueError("--force-field is not read beside an Amber topology, which holds one")
    if settings.solvate:
        structure = inputs.solvate(
            structure,
            inputs.load_force_field(settings.force_field),
            padding=settings.padding,
            ionic_strength=settings.ionic_strength,
            water_model=_water_model(settings.force_field),
            seed=settings.seed,
        )
    if settings.ensemble == "npt" and not structure.periodic:
        raise ValueError("constant pressure needs a periodic box: add one with --solvate, or use NVT")
    return structure


def _water_model(force_field: Sequence[str]) -> str:
    """Water that `openmm.app.Modeller` is to place for a force field."""
    for name in force_field:
        for part, model in _WATER_MODELS.items():
            if part in Path(name).name:
                return model
    return "tip3p"


def _make_context(
    settings: Settings, molecules: Molecules, barostat_seed: int, platform: str | None = None
) -> openmm.Context:
    """Context of the mixed, ML or MM system, in its ensemble, on its platform."""
    system = _build_system(settings, molecules)
    if settings.ensemble == "npt":
        dynamics.add_barostat(
            system, pressure=settings.pressure, temperature=settings.temperature, seed=barostat_seed
        )
    integrator = dynamics.make_integrator(
        settings.ensemble,
        timestep=settings.timestep,
        temperature=settings.temperature,
        friction=settings.friction,
        seed=settings.seed,
    )
    context = dynamics.make_context(
        system,
        integrator,
        platform=platform or settings.platform,
        precision=settings.precision,
        threads=settings.threads,
    )
    in_field = _field_energy(settings, system) if settings.ensemble == "npt" else None
    if in_field is not None and in_field.has_ions(context):
        raise ValueError(
            "constant pressure in an electric field needs neutral molecules: a barostat moves ions to "
            "other images, where they have another energy. Use NVT"
        )
    return context


def _field_energy(settings: Settings, system: openmm.System) -> FieldEnergy | None:
    """Energy in the field that the settings ask for; None without one."""
    if settings.electric_field is None:
        return None
    from openmm_les.engine.field_energy import FieldEnergy
    from openmm_les.engine.force_reader import MLForceReader

    return FieldEnergy(system, None if settings.ml == NONE else MLForceReader(system))


def _build_system(settings: Settings, molecules: Molecules) -> openmm.System:
    """The System that is simulated: of the force field, of the model, or of both."""
    if settings.ml == NONE:
        # The MM system itself stays as it is: a barostat added to it must not be written out.
        system = openmm.XmlSerializer.clone(molecules.mm_system)
        if settings.electric_field is not None:
            from openmm_les.embedding.field import add_field_on_charges

            add_field_on_charges(system, molecules.mm_system, None, settings.electric_field)
        return system
    import torch

    from openmm_les.models.checkpoint import DEFAULT_MODEL, load_model

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    model = load_model(settings.model or DEFAULT_MODEL)
    # Two precisions of the model against three of OpenMM's GPU platforms.
    precision = "double" if settings.precision == "double" else "single"
    if molecules.mm_system is None:
        from openmm_les.engine.system import create_system

        return create_system(
            molecules.topology,
            model,
            route=settings.route,
            total_charge=_total_charge(settings, molecules.topology),
            precision=precision,
            electric_field=settings.electric_field,
        )
    from openmm_les.embedding.mixed import create_mixed_system

    return create_mixed_system(
        molecules.topology,
        molecules.mm_system,
        molecules.ml_atoms,
        model,
        embedding=settings.embedding,
        total_charge=settings.charge,
        route=settings.route,
        precision=precision,
        electric_field=settings.electric_field,
    )


def _total_charge(settings: Settings, topology: app.Topology) -> float:
    """Total charge of a system that is all ML, e: as given, or 0 where no valence speaks against it."""
    if settings.charge is not None:
        return settings.charge
    from openmm_les.engine.topology import atomic_numbers, topology_bonds
    from openmm_les.molecules import formal_charges

    bonds = np.array(topology_bonds(topology), dtype=np.int64).reshape(-1, 2)
    formal = float(np.sum(formal_charges(np.array(atomic_numbers(topology)), bonds)))
    if math.isfinite(formal) and formal != 0.0:
        raise ValueError(
            f"the ML atoms carry {formal:+g} e by their valences: give their total charge with --charge "
            "(0, too, if that is what it is)"
        )
    return 0.0


def _settle(
    context: openmm.Context, positions: np.ndarray, settings: Settings, stop: dynamics.StopRequest
) -> None:
    """Put the atoms in place: minimise, apply constraints, draw velocities."""
    context.setPositions(positions * unit.nanometer)
    energy = dynamics.potential_energy(context)
    if not math.isfinite(energy):
        raise ValueError("the energy of the structure is not finite: do atoms lie upon each other?")
    if settings.minimize:
        with stderr.status("minimising") as status:
            dynamics.minimize(
                context,
                max_iterations=settings.minimize_iterations,
                stop=stop,
                progress=lambda iteration, value: status.update(
                    f"minimising: iteration {iteration}, {value:.1f} kJ/mol"
                ),
            )
        minimum = dynamics.potential_energy(context)
        if not math.isfinite(minimum):
            raise RunError("the minimisation left a structure without a finite energy")
        note(f"minimised from {energy:.1f} to {minimum:.1f} kJ/mol")
    context.applyConstraints(1e-6)
    context.computeVirtualSites()
    context.setVelocitiesToTemperature(settings.temperature * unit.kelvin, settings.seed)


def _make_run(
    context: openmm.Context,
    topology: app.Topology,
    directory: RunDirectory,
    settings: Settings,
    stop: dynamics.StopRequest,
) -> dynamics.Run:
    plan = dynamics.RunPlan(
        total_steps=settings.steps,
        timestep=settings.timestep,
        report_interval=settings.report_interval,
        frame_interval=settings.frame_interval,
        checkpoint_seconds=settings.checkpoint_seconds,
    )
    run = dynamics.Run(context, topology, directory, plan, stop)
    columns: list[str] = []
    values: list[Callable[[openmm.Context], Sequence[float]]] = []
    if settings.embedding == "electrostatic" and settings.ml not in (ALL, NONE):
        from openmm_les.embedding.report import MixedEnergies

        energies = MixedEnergies(context.getSystem())
        columns += energies.columns
        values.append(energies.row)
    elif (in_field := _field_energy(settings, context.getSystem())) is not None:
        columns.append(in_field.column)
        values.append(lambda context: [in_field.energy(context)])
    if settings.ml != NONE:
        watch = novelty.NoveltyWatch(context.getSystem(), topology, note)
        if watch.knows:
            columns.append(novelty.COLUMN)
            values.append(lambda context: [watch.largest(context)])
        held = bonds.BondWatch(topology, watch.atoms, note)
        if held.knows:
            columns.append(bonds.COLUMN)
            values.append(lambda context: [held.longest(context)])
    run.further_columns = columns
    run.further_values = lambda context: [value for part in values for value in part(context)]
    return run


def _finish(run: dynamics.Run, settings: Settings) -> int:
    """Run to the end or to a stop, then write and show what came out; exit code."""
    directory = run.directory
    try:
        with RunProgress(run.step, settings.steps, settings.timestep) as progress:

            def show(step: int, row: EnergyRow | None) -> None:
                progress.update(step, None if row is None else row.temperature)

            run.advance(show)
    finally:
        run.close()
    write_pdb(directory.final, run.topology, run.state())
    energies = read_energies(directory.energies)
    name = settings.ensemble.upper()
    plot_energies(energies, directory.plot, f"{name}, {directory.path.name}")
    stdout.print(summary_table(summarize(energies), f"{name} run in {directory.path}"))
    say(f"plot: {directory.plot}")
    if run.stop:
        say(
            f"stopped at step {run.step} of {settings.steps}; continue with:"
            f" openmm-les simulate --resume {shlex.quote(str(directory.path))}"
        )
        return _stopped(run.stop)
    return 0


def _stopped(stop: dynamics.StopRequest) -> int:
    """Exit code of a run that a signal ended, as shells have it."""
    return 128 + int(stop.signal or 0)


def _force_field(settings: Settings, structure: inputs.Structure) -> app.ForceField | None:
    return None if structure.prmtop is not None else inputs.load_force_field(settings.force_field)


def _model_hash(settings: Settings) -> str | None:
    """SHA-256 of the model's file; None where nothing is ML."""
    if settings.ml == NONE:
        return None
    from openmm_les.models.checkpoint import DEFAULT_MODEL, model_path

    return hashlib.sha256(model_path(settings.model or DEFAULT_MODEL).read_bytes()).hexdigest()


def _versions() -> dict[str, str]:
    found = {}
    for package in _VERSIONS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
