"""``openmm-les analyze``: every subcommand on small trajectories, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from openmm_les.analysis.dipoles import DipoleSeries
from openmm_les.cli.analyze_inputs import results_folder
from openmm_les.models.checkpoint import save_model
from openmm_les.models.response import polarizability
from openmm_les.records import read_record
from tests.analysis.systems import BOX, places_of, topology_of, trajectory_of
from tests.builders import multipole_model, small_model

NAMES = ["FOR", "HOH", "HOH"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small untrained model, and 400 frames in a cell and without one, 1 fs apart."""
    folder = tmp_path_factory.mktemp("analyze")
    save_model(small_model(cutoff=4.0), folder / "model.safetensors", {"name": "test"})
    times = np.arange(400)[:, None, None]
    places = places_of(NAMES)
    rates = 2 * np.pi * 2.99792458e-5 * np.linspace(600, 3200, places.size).reshape(places.shape)
    moving = places + 0.02 * np.sin(rates * times)
    topology = topology_of(NAMES)
    trajectory_of(topology, moving, BOX, spacing=0.001).save(str(folder / "cell.h5"))
    trajectory_of(topology, moving, BOX, spacing=0.001).save(str(folder / "cell.dcd"))
    trajectory_of(topology_of(["FOR"]), moving[:, :6], spacing=0.001).save(str(folder / "gas.h5"))
    DipoleSeries(
        np.arange(400.0), 5 * np.random.default_rng(0).normal(size=(400, 3)), np.full(400, 900.0)
    ).save(folder / "dipoles.h5")
    return folder


def is_picture(path: Path) -> bool:
    """Whether a file is a PNG with something drawn on it."""
    picture = imread(path)
    return picture.shape[1] >= 800 and bool(picture[..., :3].std() > 0.01)


def test_charges(files, tmp_path, openmm_les):
    out = tmp_path / "out"
    done = openmm_les(
        "analyze", "charges", files / "cell.dcd", "--top", files / "cell.h5",
        *("--model", files / "model.safetensors", "--stride", 20, "--energies", "-o", out),
    )  # fmt: skip
    assert done.code == 0, done.stderr
    names = sorted(p.name for p in out.iterdir())
    tables = [f"charges_by_{kind}.csv" for kind in ("atom", "element", "residue")]
    assert names == ["charges.h5", "charges.png", *tables, "molecule.html", "molecule.png"]
    assert read_record(out / "charges.h5", "particles/atoms/charge").value.shape == (20, 12)
    assert is_picture(out / "charges.png")
    assert is_picture(out / "molecule.png")
    page = (out / "molecule.html").read_text()
    assert "USER_CHARGES" in page
    assert page.count("setStyle") == 6  # the formamide's atoms
    assert "mean" in done.stdout


def test_dipole(files, tmp_path, openmm_les):
    done = openmm_les(
        "analyze", "dipole", files / "cell.h5", "--model", files / "model.safetensors", "--stride", 20,
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    assert len(DipoleSeries.load(tmp_path / "out" / "dipole.h5")) == 20
    assert is_picture(tmp_path / "out" / "dipole.png")
    rows = (tmp_path / "out" / "dipole_by_molecule.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [["FOR", "1"], ["HOH", "2"]]


def test_ir_of_a_trajectory_with_normal_modes(files, tmp_path, openmm_les, monkeypatch):
    # An untrained model has no minimum to relax to.
    monkeypatch.setattr("openmm_les.analysis.harmonic.relax", lambda model, positions: positions)
    done = openmm_les(
        "analyze", "ir", files / "gas.h5", "--model", files / "model.safetensors", "--harmonic",
        *("--resolution", 200, "--reference", "peptide", "-o", tmp_path / "out"),
    )  # fmt: skip
    assert done.code == 0, done.stderr
    out = tmp_path / "out"
    for name in (
        "ir.csv",
        "harmonic.csv",
        "dipole.h5",
        "density_of_states_all.csv",
        "density_of_states_N.csv",
    ):
        assert (out / name).is_file(), name
    assert is_picture(out / "ir.png")
    assert "bands at" in done.stdout
    again = openmm_les("analyze", "ir", out / "dipole.h5", "--resolution", 200, "-o", tmp_path / "again")
    assert again.code == 0, again.stderr
    assert (tmp_path / "again" / "ir.csv").read_text() == (out / "ir.csv").read_text()


def test_dielectric_of_a_file_of_dipoles_and_of_a_trajectory(files, tmp_path, openmm_les):
    done = openmm_les("analyze", "dielectric", files / "dipoles.h5", "-o", tmp_path / "a", "--discard", 20)
    assert done.code == 0, done.stderr
    assert "dielectric constant" in done.stdout
    assert is_picture(tmp_path / "a" / "dielectric.png")
    done = openmm_les(
        "analyze", "dielectric", files / "cell.h5", "--model", files / "model.safetensors", "--stride", 20,
        "-o", tmp_path / "b",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    assert (tmp_path / "b" / "dielectric.csv").read_text().startswith("time (ps),")


def test_what_cannot_be_is_refused_before_the_dipoles(files, tmp_path, openmm_les, monkeypatch):
    def never(*arguments, **options):
        pytest.fail("dipoles were computed")

    monkeypatch.setattr("openmm_les.analysis.dipoles.compute_dipoles", never)
    for kind, options, text in (
        ("dielectric", ["--blocks", 500], "400 frames are too few for 500 blocks"),
        ("dielectric", ["--temperature", 0], "`temperature` must be positive"),
        ("ir", ["--temperature", 0], "`temperature` must be positive"),
        ("ir", ["--resolution", 1], "a resolution of 1 cm^-1 needs"),
    ):
        run = ["analyze", kind, files / "cell.h5", "--model", files / "model.safetensors", *options]
        assert openmm_les(*run, "-o", tmp_path / "out").failed_with(2, text)


def test_born(files, tmp_path, openmm_les):
    done = openmm_les(
        "analyze", "born", files / "cell.h5", "--model", files / "model.safetensors", "--stride", 50,
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    assert read_record(tmp_path / "out" / "born.h5", "particles/atoms/born_charge").value.shape == (
        8,
        12,
        3,
        3,
    )
    assert "acoustic sum rule" in done.stdout
    assert is_picture(tmp_path / "out" / "born.png")
    table = np.genfromtxt(tmp_path / "out" / "born_by_atom.csv", delimiter=",", skip_header=1)
    np.testing.assert_allclose(table[:, 5:].sum(0), 0.0, atol=1e-3)


def test_polarizability(files, tmp_path, openmm_les):
    model = multipole_model(cutoff=4.0, polarizability="isotropic", n_layers=1)
    save_model(model, tmp_path / "polarizable.safetensors", {"name": "test"})
    out = tmp_path / "out"
    done = openmm_les(
        "analyze", "polarizability", files / "gas.h5", "--model", tmp_path / "polarizable.safetensors",
        *("--stride", 50, "-o", out),
    )  # fmt: skip
    assert done.code == 0, done.stderr
    assert "isotropic" in done.stdout and is_picture(out / "polarizability.png")
    tensors = read_record(out / "polarizability.h5", "observables/polarizability").value
    table = np.genfromtxt(out / "polarizability.csv", delimiter=",", skip_header=1)
    np.testing.assert_allclose(table[:, 3:].reshape(8, 3, 3), tensors, atol=1e-4)
    np.testing.assert_allclose(table[:, 1], tensors.trace(axis1=1, axis2=2) / 3, atol=1e-4)
    first = places_of(["FOR"])
    graph = model.make_graph(first, np.array([6, 8, 7, 1, 1, 1]))
    np.testing.assert_allclose(tensors[0], polarizability(model, graph)[0].detach(), atol=0.05)
    charges_alone = openmm_les(
        "analyze", "polarizability", files / "gas.h5", "--model", files / "model.safetensors",
        *("-o", tmp_path / "none"),
    )  # fmt: skip
    assert charges_alone.code != 0 and "does not respond to a field" in charges_alone.stderr


def test_rdf_needs_no_model(files, tmp_path, openmm_les):
    done = openmm_les(
        "analyze", "rdf", files / "cell.dcd", "--top", files / "cell.h5", "--second", "element H",
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    assert is_picture(tmp_path / "out" / "rdf.png")
    assert (tmp_path / "out" / "rdf.csv").is_file()


def test_bad_input_ends_in_one_line(files, tmp_path, openmm_les):
    model = ("--model", files / "model.safetensors")
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").write_text("")
    cases = [
        (("charges", files / "cell.dcd"), "holds no topology"),
        (("charges", files / "absent.h5", *model), "no such file"),
        (("charges", files / "cell.h5", *model, "-o", full), "is not empty"),
        (("charges", files / "cell.h5", "--model", "no-such-model"), "no model 'no-such-model'"),
        (("charges", files / "cell.h5", *model, "--charge", 1), "cannot be shared"),
        (("ir", files / "cell.dcd", "--top", files / "cell.h5", *model), "--frame-spacing"),
        (("ir", files / "cell.h5", *model, "--stride", 10), "write a frame every"),
        (("ir", files / "cell.h5", *model, "--current"), "holds no velocities"),
        (("ir", files / "cell.h5", *model, "--harmonic"), "without a cell"),
        (("ir", files / "dipoles.h5", "--harmonic"), "--harmonic is for trajectories"),
        (("dielectric", files / "dipoles.h5", "--epsilon-infinity", 1.8), "--epsilon-infinity is for traj"),
        (("dielectric", files / "dipoles.h5", "--skip", 400), "none is left from frame 400"),
        (("dielectric", files / "dipoles.h5", "--stride", -1), "`stride` must be at least 1"),
        (("dielectric", files / "cell.dcd", "--top", files / "cell.h5", *model), "--frame-spacing"),
        (("dielectric", files / "gas.h5", *model), "has no unit cell"),
        (("rdf", files / "gas.h5"), "no pair in different molecules"),
        (("rdf", files / "cell.h5", "--first", "element Xe"), "selects no atoms"),
    ]
    for k, (arguments, text) in enumerate(cases):
        extra = () if "-o" in arguments else ("-o", tmp_path / f"out{k}")
        done = openmm_les("analyze", *arguments, *extra)
        assert done.failed_with(2, text), arguments


def test_progress_is_for_terminals(files, tmp_path, openmm_les):
    done = openmm_les("analyze", "rdf", files / "cell.h5", "-o", tmp_path / "out", "--stop", 10)
    assert done.stderr == ""


def test_results_appear_whole_or_not_at_all(tmp_path):
    chosen = tmp_path / "there"
    with pytest.raises(RuntimeError, match="midway"), results_folder(chosen, "charges") as folder:
        (folder / "half.csv").write_text("1")
        raise RuntimeError("midway")
    assert list(tmp_path.iterdir()) == []
    chosen.mkdir()  # empty is as good as new
    with results_folder(chosen, "charges") as folder:
        (folder / "whole.csv").write_text("1")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert (chosen / "whole.csv").read_text() == "1"
    with pytest.raises(FileExistsError, match="not empty"), results_folder(chosen, "charges"):
        pass
    assert (chosen / "whole.csv").exists()
