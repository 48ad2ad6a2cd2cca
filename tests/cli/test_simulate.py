"""Runs of ``openmm-les simulate``: what they write, and that they continue where they stopped."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mdtraj
import numpy as np
import pytest
import torch

from openmm_les.embedding.report import COLUMNS
from openmm_les.models.checkpoint import load_model, model_path, save_model
from openmm_les.models.domain import FeatureDomain
from tests.cli.conftest import Invoke


def rows(path: Path) -> list[dict[str, str]]:
    """Rows of energies.csv without the speed, which depends on the machine."""
    with open(path / "energies.csv", newline="") as file:
        return [{k: v for k, v in row.items() if "speed" not in k} for row in csv.DictReader(file)]


def frames(path: Path) -> mdtraj.Trajectory:
    """The trajectory of a run."""
    [file] = path.glob("trajectory.*")
    return mdtraj.load(file, top=path / "initial.pdb")


def subprocess_of(arguments: list[object]) -> subprocess.Popen[str]:
    """The command in a process of its own, for signals."""
    code = "from openmm_les.cli.main import app; app()"
    command = [sys.executable, "-W", "ignore", "-c", code, *(str(a) for a in arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_rows(process: subprocess.Popen[str], path: Path, count: int) -> None:
    """Wait until a run has written so many rows."""
    deadline = time.monotonic() + 120
    while not (path / "energies.csv").exists() or len(rows(path)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the run does not move"
        time.sleep(0.05)


def test_run_writes_what_it_promises(openmm_les: Invoke, quick: list[object], tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = openmm_les(*quick, "--output", out, "--steps", 10)
    assert result.code == 0, result.stderr
    table = rows(out)
    assert [int(row["step"]) for row in table] == [0, 2, 4, 6, 8, 10]
    assert float(table[-1]["time (ps)"]) == pytest.approx(0.005)
    total = float(table[3]["potential energy (kJ/mol)"]) + float(table[3]["kinetic energy (kJ/mol)"])
    assert float(table[3]["total energy (kJ/mol)"]) == pytest.approx(total, abs=1e-5)
    assert float(table[3]["volume (nm^3)"]) == pytest.approx(1.3**3, rel=1e-5)
    trajectory = frames(out)
    assert trajectory.n_frames == 2
    np.testing.assert_allclose(trajectory.unitcell_lengths, 1.3, rtol=1e-5)
    document = json.loads((out / "settings.json").read_text())
    assert document["settings"]["seed"] == 7
    assert document["resolved"]["platform"] == "Reference"
    for name in ("final.pdb", "checkpoint.chk", "state.xml", "mm_system.xml", "topology.json"):
        assert (out / name).stat().st_size > 0
    assert (out / "energies.png").read_bytes().startswith(b"\x89PNG")
    for text in ("temperature", "drift of total energy", "ns/day", str(out / "energies.png")):
        assert text in result.stdout
    assert not list(out.glob("*.new"))


@pytest.mark.parametrize("trajectory_format", ["dcd", "xtc"])
def test_resumed_run_equals_an_uninterrupted_one(
    openmm_les: Invoke, quick: list[object], tmp_path: Path, trajectory_format: str
) -> None:
    options = [*quick, "--format", trajectory_format]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert openmm_les(*options, "--output", whole, "--steps", 20).code == 0
    assert openmm_les(*options, "--output", broken, "--steps", 10).code == 0
    # What a killed run leaves beyond its checkpoint: a later row, a part of one, a part of a frame.
    with open(broken / "energies.csv", "a") as file:
        file.write("12,0.006,1,2,3,300,2.197,1,1\n14,0.0")
    [trajectory] = broken.glob("trajectory.*")
    content = trajectory.read_bytes()
    trajectory.write_bytes(content + content[-len(content) // 3 :])
    result = openmm_les("simulate", "--resume", broken, "--steps", 20)
    assert result.code == 0, result.stderr
    assert rows(broken) == rows(whole)
    assert frames(broken).n_frames == 5
    np.testing.assert_array_equal(frames(broken).xyz, frames(whole).xyz)
    if trajectory_format == "xtc":  # mdtraj reads no times from DCD
        np.testing.assert_allclose(frames(broken).time, [0.002, 0.004, 0.006, 0.008, 0.01], rtol=1e-5)
    final = [line for line in (broken / "final.pdb").read_text().splitlines() if line.startswith("HETATM")]
    other = [line for line in (whole / "final.pdb").read_text().splitlines() if line.startswith("HETATM")]
    assert final == other


def test_ctrl_c_leaves_a_run_that_resumes(openmm_les: Invoke, quick: list[object], tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = subprocess_of([*quick, "--output", out, "--steps", 10_000_000])
    wait_for_rows(process, out, 3)
    meanwhile = openmm_les("simulate", "--resume", out, "--steps", 20_000_000)
    assert meanwhile.failed_with(1, f"another process runs in {out}")
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT, stderr
    assert f"openmm-les simulate --resume {out}" in stdout
    assert "Traceback" not in stderr
    step = int(stdout.split("stopped at step ")[1].split()[0])
    assert int(rows(out)[-1]["step"]) == step - step % 2
    longer = step + 6
    result = openmm_les("simulate", "--resume", out, "--steps", longer)
    assert result.code == 0, result.stderr
    assert [int(row["step"]) for row in rows(out)] == list(range(0, longer + 1, 2))
    assert frames(out).n_frames == longer // 4


def test_molecules_stay_whole_without_a_box(openmm_les: Invoke, peptide_pdb: Path, tmp_path: Path) -> None:
    """OpenMM would wrap them into a box that they do not have; this one stands at its corner."""
    out = tmp_path / "run"
    short = [
        "--platform",
        "Reference",
        "--minimize-iterations",
        "1",
        "--frame-interval",
        "4",
        "--format",
        "xtc",
    ]
    first = openmm_les("simulate", peptide_pdb, "--ml", "none", *short, "-o", out, "--steps", 2)
    assert first.code == 0, first.stderr
    # Stopped before its first frame it resumes all the same.
    assert openmm_les("simulate", "--resume", out, "--steps", 8).code == 0
    assert (mdtraj.load(peptide_pdb).xyz < 0).any()
    for written in (mdtraj.load(out / "initial.pdb"), mdtraj.load(out / "final.pdb"), frames(out)):
        pairs = [(a.index, b.index) for a, b in written.topology.bonds]
        assert mdtraj.compute_distances(written, pairs, periodic=False).max() < 0.2
    assert frames(out).n_frames == 2


def test_a_run_that_explodes_says_so(openmm_les: Invoke, peptide_pdb: Path, tmp_path: Path) -> None:
    short = ["--platform", "Reference", "--minimize-iterations", "1", "--frame-interval", "1"]
    wild = ["--timestep", "500", "--steps", "200"]
    for name, more in (("wild", wild), ("hot", ["--temperature", "1e12", "--steps", "2"])):
        out = openmm_les("simulate", peptide_pdb, "--ml", "none", *short, *more, "-o", tmp_path / name)
        assert out.code == 1
        assert "the run became unstable after step" in out.stderr


def test_killed_run_resumes_from_its_last_checkpoint(
    openmm_les: Invoke, quick: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = subprocess_of([*quick, "--output", out, "--steps", 10_000_000, "--checkpoint-seconds", "0.2"])
    wait_for_rows(process, out, 40)
    process.kill()
    process.communicate(timeout=60)
    reached = int(rows(out)[-1]["step"])
    result = openmm_les("simulate", "--resume", out, "--steps", reached + 4)
    assert result.code == 0, result.stderr
    steps = [int(row["step"]) for row in rows(out)]
    assert steps == list(range(0, reached + 5, 2))
    assert frames(out).n_frames == (reached + 4) // 4


def test_complete_run_refuses_to_resume_and_changes_nothing(
    openmm_les: Invoke, quick: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert openmm_les(*quick, "--output", out, "--steps", 4).code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert openmm_les("simulate", "--resume", out).failed_with(2, "is complete (4 steps)")
    assert openmm_les("simulate", "--resume", out, "--seed", "3").failed_with(2, "not seed")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_run_resumes_with_the_weights_it_has_only(
    openmm_les: Invoke, peptide_pdb: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shipped model keeps its name when its weights change; a file may be named from where it lies."""
    molecule = [
        "simulate",
        peptide_pdb,
        "--ml",
        "all",
        "--platform",
        "Reference",
        "--minimize-iterations",
        "2",
    ]
    model = tmp_path / "mine.safetensors"
    model.write_bytes(model_path("peptide-gfn2-small").read_bytes())
    monkeypatch.chdir(tmp_path)
    for name, given in (("shipped", []), ("file", ["--model", model.name])):
        out = tmp_path / name
        assert openmm_les(*molecule, *given, "--output", out, "--steps", 4).code == 0
    monkeypatch.chdir(tmp_path.parent)
    assert openmm_les("simulate", "--resume", tmp_path / "file", "--steps", 6).code == 0
    model.write_bytes(model_path("water-gfn2-small").read_bytes())
    assert openmm_les("simulate", "--resume", tmp_path / "file", "--steps", 8).failed_with(2, "have changed")
    monkeypatch.setattr("openmm_les.models.checkpoint.model_path", lambda name: model)
    assert openmm_les("simulate", "--resume", tmp_path / "shipped", "--steps", 6).failed_with(
        2, "have changed"
    )


def test_pressure_changes_the_volume_and_resumes(
    openmm_les: Invoke, quick: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    # The barostat moves every 25 steps.
    options = [*quick, "--ensemble", "npt", "--timestep", 1, "--cutoff", 0.5, "--report-interval", 25]
    assert openmm_les(*options, "--output", out, "--steps", 75).code == 0
    assert openmm_les("simulate", "--resume", out, "--ps", 0.15).code == 0
    volumes = [float(row["volume (nm^3)"]) for row in rows(out)]
    assert len(volumes) == 7
    assert len(set(volumes[:4])) > 1
    assert len(set(volumes[3:])) > 1


def test_same_seed_same_run_other_seed_other_run(
    openmm_les: Invoke, quick: list[object], tmp_path: Path
) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert openmm_les(*quick, "--seed", seed, "--output", tmp_path / name, "--steps", 4).code == 0
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    assert rows(tmp_path / "a")[-1] != rows(tmp_path / "c")[-1]


def test_water_and_ions_are_added_on_request(openmm_les: Invoke, tmp_path: Path, peptide_pdb: Path) -> None:
    out = tmp_path / "run"
    result = openmm_les(
        *("simulate", peptide_pdb, "--ml", "none", "--solvate", "--padding", 0.4),
        *("--ionic-strength", 0.5, "--cutoff", 0.6, "--steps", 2, "--minimize-iterations", 5),
        *("--output", out, "--report-interval", 1, "--frame-interval", 1),
    )
    assert result.code == 0, result.stderr
    topology = mdtraj.load(out / "initial.pdb").topology
    names = [residue.name for residue in topology.residues]
    assert names[:3] == ["ACE", "ALA", "NME"]
    assert names.count("HOH") > 50
    assert names.count("NA") == names.count("CL") > 0
    region = ["--ml", "not water", "--solvate", "--padding", 0.4, "--ionic-strength", 0.5, "--steps", 2]
    refused = openmm_les("simulate", peptide_pdb, *region, "--output", tmp_path / "ions")
    assert refused.failed_with(2, "--ml 'not water' takes in ions that --solvate adds (")


def test_interrupted_setup_keeps_nothing(quick: list[object], tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = subprocess_of([*quick, "--output", out, "--steps", 10, "--minimize-iterations", 10_000_000])
    deadline = time.monotonic() + 120
    while not out.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT, stderr
    assert "nothing is kept" in stderr
    assert not out.exists()


def test_settings_of_a_run_survive_json() -> None:
    from openmm_les.cli.settings import Settings

    settings = Settings(structure=("a.pdb",), ml="all", model=None, steps=3, seed=4, charge=-1.0)
    assert Settings.from_json(settings.to_json(platform="CPU")) == (settings, {"platform": "CPU"})
    with pytest.raises(ValueError, match="cannot be read"):
        Settings.from_json("{")
    changed = json.loads(settings.to_json())
    changed["settings"]["colour"] = "red"
    with pytest.raises(ValueError, match="unknown settings colour"):
        Settings.from_json(json.dumps(changed))


@pytest.fixture
def interruptible() -> Iterator[Callable]:
    """Python's own handler of SIGINT; shells start background jobs with the signal ignored."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, inherited)


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
def test_first_signal_is_a_request_and_the_second_acts(interruptible: Callable) -> None:
    from openmm_les.engine.dynamics import StopRequest

    stop = StopRequest()
    with stop.listen():
        os.kill(os.getpid(), signal.SIGINT)
        assert stop
        assert stop.signal is signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is interruptible


@pytest.mark.filterwarnings("ignore:openmm-les. an MM charge")  # fresh water has not found its place
def test_electrostatic_runs_write_the_terms_of_their_energy(
    openmm_les: Invoke, water_pdb: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    options = [
        *("simulate", water_pdb, "--force-field", "amber14/tip3p.xml", "--cutoff", "0.6"),
        *("--ml", "resid 0", "--embedding", "electrostatic", "--minimize-iterations", "5"),
        *("--report-interval", "2", "--output", out),
    ]
    result = openmm_les(*options, "--steps", 4)
    assert result.code == 0, result.stderr
    result = openmm_les("simulate", "--resume", out, "--steps", 6)
    assert result.code == 0, result.stderr
    table = rows(out)
    assert [int(row["step"]) for row in table] == [0, 2, 4, 6]
    for row in table:
        parts = [float(row[name]) for name in COLUMNS if "kJ/mol" in name]
        assert len(parts) == 5
        assert sum(parts) == pytest.approx(float(row["potential energy (kJ/mol)"]), abs=0.01)
        assert 0.1 < float(row["closest bare MM charge (nm)"]) < 0.4


def test_a_run_outside_of_the_training_data_is_told_so(
    openmm_les: Invoke, tmp_path: Path, peptide_pdb: Path
) -> None:
    model = load_model("peptide-gfn2-small")
    model.domain = FeatureDomain(model.elements, model.backbone.n_features)
    model.domain.whitening += 1e3 * torch.eye(model.backbone.n_features)  # everything is far away
    save_model(model, tmp_path / "model.safetensors")
    out = openmm_les(
        *("simulate", peptide_pdb, "--model", tmp_path / "model.safetensors", "--ml", "all"),
        *(
            "--output",
            tmp_path / "run",
            "--steps",
            "4",
            "--report-interval",
            "2",
            "--minimize-iterations",
            "1",
        ),
        *("--platform", "Reference", "--seed", "7"),
    )
    assert out.code == 0, out.stderr
    assert out.stderr.count("all of the model's training data") == 1
    assert [float(row["Largest ML novelty"]) > 100.0 for row in rows(tmp_path / "run")] == [True] * 3
