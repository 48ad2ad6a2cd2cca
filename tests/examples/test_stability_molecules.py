"""The benchmark of long runs: molecules of one system stay whole, apart and without knowing of each other."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import numpy as np
import openmm
import pytest
from ase.build import molecule
from openmm import unit

import openmm_les
from openmm_les.units import KJ_PER_MOL_PER_EV

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    """Module of the benchmark, with results in ``tmp_path``."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import provenance
    import stability_molecules

    monkeypatch.setattr(provenance, "RESULTS", tmp_path / "results")
    return stability_molecules


def named(name: str) -> ase.Atoms:
    atoms = molecule(name)
    atoms.info["name"] = name
    return atoms


def run(benchmark, monkeypatch, folder: Path, *options: object) -> None:
    monkeypatch.setattr("sys.argv", ["stability_molecules.py", str(folder), *map(str, options)])
    benchmark.main()


def test_copies_go_on_where_they_stopped(benchmark, monkeypatch, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    ase.io.write(folder / "molecules.xyz", [named("CH3OH"), named("H2O")], format="extxyz")
    monkeypatch.setattr(benchmark, "STEPS_PER_PS", 5)
    monkeypatch.setattr(benchmark, "WARM_AFTER", 0)
    run(benchmark, monkeypatch, folder, "--ps", 2, "--copies", 3)
    run(benchmark, monkeypatch, folder, "--ps", 3, "--copies", 3, "--max-minutes", 0)  # no time, no step
    first = json.loads((folder / "progress.json").read_text())
    run(benchmark, monkeypatch, folder, "--ps", 3, "--copies", 3)
    result = json.loads((tmp_path / "results" / "stability_molecules-copies.json").read_text())
    assert (result["copies"], result["picoseconds_per_copy"]) == (3, 3)
    for name, atoms in (("CH3OH", 6), ("H2O", 3)):
        row = result["molecules"][name]
        assert (row["atoms"], row["picoseconds"], row["warm_frames"]) == (atoms, 9, 9)
        assert row["frames_with_changed_bonds"] == 0
        assert 50.0 < row["mean_temperature_K"] < 600.0
        assert row["mean_temperature_K"] != first["rows"][name]["mean_temperature_K"]
    time = openmm.XmlSerializer.deserialize(first["state"]).getTime().value_in_unit(unit.femtosecond)
    assert time == pytest.approx(2 * 5 * benchmark.TIME_STEP)
    with pytest.raises(SystemExit):
        run(benchmark, monkeypatch, folder, "--ps", 3, "--copies", 2)


def test_molecules_shared_out_among_folders(benchmark, monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "STEPS_PER_PS", 5)
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, name in ((one, "CH3OH"), (other, "H2O")):
        folder.mkdir()
        ase.io.write(folder / "molecules.xyz", [named(name)], format="extxyz")
    run(benchmark, monkeypatch, one, "--ps", 2, "--beside", other)  # which has not begun
    run(benchmark, monkeypatch, other, "--ps", 3, "--beside", one)
    result = json.loads((tmp_path / "results" / "stability_molecules.json").read_text())
    assert {name: row["picoseconds"] for name, row in result["molecules"].items()} == {"CH3OH": 2, "H2O": 3}
    assert result["picoseconds_per_copy"] == 2
    with pytest.raises(SystemExit, match="CH3OH"):
        run(benchmark, monkeypatch, one, "--ps", 3, "--beside", one)
    progress = json.loads((one / "progress.json").read_text())
    assert progress["picoseconds_per_copy"] == 2  # and nothing was run
    progress["settings"]["time_step_fs"] = 9.0
    (one / "progress.json").write_text(json.dumps(progress))
    with pytest.raises(SystemExit, match="other settings"):
        run(benchmark, monkeypatch, other, "--ps", 4, "--beside", one)


def test_a_hot_run_has_a_result_of_its_own(benchmark, monkeypatch, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    ase.io.write(folder / "molecules.xyz", [named("CH3OH")], format="extxyz")
    monkeypatch.setattr(benchmark, "STEPS_PER_PS", 5)
    run(benchmark, monkeypatch, folder, "--ps", 1, "--temperature", 600)
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["stability_molecules-600K.json"]
    result = json.loads((tmp_path / "results" / "stability_molecules-600K.json").read_text())
    assert result["temperature_K"] == 600.0
    with pytest.raises(SystemExit):  # the same run cannot go on at another temperature
        run(benchmark, monkeypatch, folder, "--ps", 2)


def test_a_broken_bond_is_counted(benchmark):
    whole = named("H2O")
    whole.info.update(bonds=benchmark.covalent_bonds(whole.positions, whole.numbers), masses=np.ones(3))
    torn = whole.positions.copy()
    torn[1] += 3.0
    system = openmm.System()
    for _ in range(6):
        system.addParticle(1.0)
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(0.1 * np.concatenate([whole.positions, torn]))
    rows = {"H2O": {"picoseconds": 0, "frames_with_changed_bonds": 0}}
    benchmark.count_frame(rows, 1, context.getState(positions=True, velocities=True), [whole, whole])
    assert rows == {"H2O": {"picoseconds": 2, "frames_with_changed_bonds": 1}}


def test_molecules_do_not_feel_each_other(benchmark):
    """Forces together against forces alone, eV/Å; what differs is the field of distant dipoles."""
    molecules = [named(name) for name in ("CH3OH", "H2O", "CH3CN")]
    model = openmm_les.load_model("peptide-gfn2-small")

    def forces(of):
        system, positions = benchmark.system_of(of, model)
        context = benchmark.make_context(system, "Reference", 300.0, 1)
        context.setPositions(0.1 * positions)
        found = context.getState(forces=True).getForces(asNumpy=True)
        return found.value_in_unit(unit.kilojoule_per_mole / unit.angstrom) / KJ_PER_MOL_PER_EV

    together = forces(molecules)
    alone = np.concatenate([forces([one]) for one in molecules])
    assert abs(together - alone).max() < 1e-3
