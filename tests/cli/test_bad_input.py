"""Input that cannot be used: each time one clear line, a failing exit code, and nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from openmm_les.engine.inputs import read_structure
from tests.cli.conftest import Invoke


def base(structure: Path) -> dict[str, object]:
    """Options of a run that would work, by name."""
    return {
        "structure": structure,
        "--force-field": "amber14/tip3p.xml",
        "--ml": "none",
        "--cutoff": 0.6,
        "--platform": "Reference",
        "--steps": 2,
    }


def arguments(options: dict[str, object]) -> list[object]:
    """Options as a command line; None leaves one out."""
    line: list[object] = ["simulate"]
    for name, value in options.items():
        if name == "structure":
            line += value if isinstance(value, list) else [value]
        elif value is not None:
            line += [name, value]
    return line


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"structure": "nowhere.pdb"}, "no such file"),
        ({"structure": ["a.xyz"]}, "no such file"),
        ({"--ml": "resname FOO"}, "--ml 'resname FOO' selects no atoms"),
        ({"--ml": "foo bar"}, "'foo bar' is not a selection that mdtraj understands"),
        ({"--ml": "water and x"}, "is not a selection that mdtraj understands"),
        ({"--ml": None}, "--ml"),
        ({"--cutoff": 0.9}, "less than twice the cutoff of 0.9 nm"),
        ({"--cutoff": -1}, "--cutoff must be positive, got -1"),
        ({"--steps": -5}, "--steps must be positive, got -5"),
        ({"--steps": 0}, "--steps must be positive, got 0"),
        ({"--ps": 1}, "one of --steps and --ps"),
        ({"--steps": None}, "one of --steps and --ps"),
        ({"--steps": None, "--ps": -2}, "--ps must be positive, got -2"),
        ({"--steps": None, "--ps": "nan"}, "--ps must be positive, got nan"),
        ({"--timestep": 0}, "--timestep must be positive, got 0"),
        ({"--temperature": -3}, "--temperature must be positive, got -3"),
        ({"--temperature": "inf"}, "--temperature must be positive, got inf"),
        ({"--pressure": "nan"}, "--pressure must be a number"),
        ({"--seed": 0}, "--seed must lie between 1 and"),
        ({"--threads": 0}, "--threads must be positive"),
        ({"--ionic-strength": -1}, "--ionic-strength must not be negative"),
        ({"--charge": "nan"}, "--charge must be a number"),
        ({"--report-interval": 0}, "--report-interval must be positive"),
        ({"--platform": "Abacus"}, "unknown platform 'Abacus': this OpenMM has Reference"),
        ({"--force-field": "no-such.xml"}, "no-such.xml"),
        ({"--ml": "residue 1", "--model": "no-such-model"}, "no model 'no-such-model'"),
        ({"--ml": "index 0"}, "bond"),
        ({"--padding": 0.5}, "--padding goes with --solvate"),
        ({"--ionic-strength": 0.1}, "--ionic-strength goes with --solvate"),
        ({"--pressure": 1}, "--pressure goes with --ensemble npt"),
        (
            {"--friction": 1, "--ensemble": "nve"},
            "--friction is of a bath, which --ensemble nve does without",
        ),
        ({"--route": "python"}, "--route is of an ML region, which --ml none does without"),
        ({"--embedding": "electrostatic"}, "--embedding is of an ML region, which --ml none does without"),
        ({"--ml": "all"}, "--cutoff is of a force field, which --ml all does without"),
    ],
)
def test_bad_option(
    openmm_les: Invoke, water_pdb: Path, tmp_path: Path, changes: dict[str, object], text: str
) -> None:
    out = tmp_path / "run"
    result = openmm_les(*arguments(base(water_pdb) | changes), "--output", out)
    assert result.failed_with(2, text)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["--ensemble=xyz", "--steps=many", "--no-such-option"])
def test_unreadable_option(openmm_les: Invoke, water_pdb: Path, tmp_path: Path, change: str) -> None:
    result = openmm_les(*arguments(base(water_pdb)), "--output", tmp_path / "run", change)
    assert result.code == 2
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_no_output_and_no_structure(openmm_les: Invoke, water_pdb: Path) -> None:
    assert openmm_les(*arguments(base(water_pdb))).failed_with(2, "--output")
    assert openmm_les("simulate").failed_with(2, "give the structure to simulate")


def bad_pdb(water_pdb: Path, path: Path, old: str, new: str) -> Path:
    """The water box with its second atom line changed."""
    lines = water_pdb.read_text().splitlines(keepends=True)
    index = [i for i, line in enumerate(lines) if line.startswith("HETATM")][1]
    assert old in lines[index], lines[index]
    lines[index] = lines[index].replace(old, new)
    path.write_text("".join(lines))
    return path


def test_coordinates_that_are_not_numbers(openmm_les: Invoke, water_pdb: Path, tmp_path: Path) -> None:
    second = [line for line in water_pdb.read_text().splitlines() if line.startswith("HETATM")][1]
    path = bad_pdb(water_pdb, tmp_path / "nan.pdb", second[30:38], "     nan")
    result = openmm_les(*arguments(base(path)), "--output", tmp_path / "run")
    assert result.failed_with(2, "the coordinates of atom 1 (HOH 1 H1) are not finite")
    path = bad_pdb(water_pdb, tmp_path / "text.pdb", second[30:38], "  broken")
    result = openmm_les(*arguments(base(path)), "--output", tmp_path / "run")
    assert result.failed_with(2, f"cannot read {path}")
    assert not (tmp_path / "run").exists()


def test_element_that_the_model_does_not_know(openmm_les: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "iron.pdb"
    path.write_text("HETATM    1 FE    FE A   1       0.000   0.000   0.000  1.00  0.00          FE\nEND\n")
    options = {"structure": path, "--ml": "all", "--steps": 2, "--platform": "Reference"}
    result = openmm_les(*arguments(options), "--output", tmp_path / "run")
    assert result.failed_with(2, "the model does not know Fe")
    assert not (tmp_path / "run").exists()


def test_charge_that_nobody_gave(openmm_les: Invoke, tmp_path: Path) -> None:
    places = [(0, 0, 0), (0.6, 0.6, 0.6), (0.6, -0.6, -0.6), (-0.6, 0.6, -0.6), (-0.6, -0.6, 0.6)]
    lines = []
    for k, (z, (x, y, w)) in enumerate(zip("NHHHH", places)):
        lines.append(
            f"HETATM{k + 1:5d}  {z}{k:<2d} NH4 A   1    {x:8.3f}{y:8.3f}{w:8.3f}  1.00  0.00{z:>12s}"
        )
    bonds = [f"CONECT    1{k + 1:5d}" for k in range(1, 5)]
    (tmp_path / "ammonium.pdb").write_text("\n".join([*lines, *bonds, "END"]) + "\n")
    run = ["simulate", tmp_path / "ammonium.pdb", "--ml", "all", "--steps", 2, "--output", tmp_path / "run"]
    assert openmm_les(*run).failed_with(
        2, "carry +1 e by their valences: give their total charge with --charge"
    )
    assert not (tmp_path / "run").exists()


def test_atom_without_element(openmm_les: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "what.pdb"
    path.write_text("HETATM    1  ?1  UNK A   1       0.000   0.000   0.000  1.00  0.00            \nEND\n")
    options = {"structure": path, "--ml": "all", "--steps": 2}
    result = openmm_les(*arguments(options), "--output", tmp_path / "run")
    assert result.failed_with(2, "the element of ML atom 0 (UNK 1 ?1) is unknown")
    assert not (tmp_path / "run").exists()


def test_residue_without_template(openmm_les: Invoke, peptide_pdb: Path, tmp_path: Path) -> None:
    lines = peptide_pdb.read_text().replace("NME", "LIG").splitlines(keepends=True)
    text = "".join(line for line in lines if line[12:20] != " H3  LIG")  # now like no residue known
    path = tmp_path / "ligand.pdb"
    path.write_text(text)
    options = {"structure": path, "--ml": "none", "--steps": 2}
    result = openmm_les(*arguments(options), "--output", tmp_path / "run")
    assert result.failed_with(2, "no template for residue")
    assert "LIG" in result.stderr
    assert "--force-field" in result.stderr
    path.write_text("".join(line for line in text.splitlines(True) if line[76:78].strip() != "H"))
    result = openmm_les(*arguments(options), "--output", tmp_path / "run")
    assert result.failed_with(2, "no hydrogen atoms")
    assert not (tmp_path / "run").exists()


def test_region_that_cuts_bonds(openmm_les: Invoke, peptide_pdb: Path, tmp_path: Path) -> None:
    options = {"structure": peptide_pdb, "--ml": "resname ALA", "--steps": 2}
    result = openmm_les(*arguments(options), "--output", tmp_path / "run")
    assert result.failed_with(2, "bond")
    assert not (tmp_path / "run").exists()


def test_a_cell_of_one_angstrom_is_no_box(openmm_les: Invoke, peptide_pdb: Path, tmp_path: Path) -> None:
    """PDB files of structures that are not crystals have such a record."""
    path = tmp_path / "nmr.pdb"
    record = "CRYST1    1.000    1.000    1.000  90.00  90.00  90.00 P 1           1\n"
    lines = [line for line in peptide_pdb.read_text().splitlines(True) if not line.startswith("CRYST1")]
    path.write_text(record + "".join(lines))
    structure = read_structure([path])
    assert not structure.periodic
    run = (
        "simulate",
        path,
        "--ml",
        "all",
        "--steps",
        2,
        "--minimize-iterations",
        2,
        "--output",
        tmp_path / "run",
    )
    assert openmm_les(*run).code == 0


def test_constant_pressure_without_a_box(openmm_les: Invoke, peptide_pdb: Path, tmp_path: Path) -> None:
    options = {"structure": peptide_pdb, "--ml": "all", "--steps": 2, "--ensemble": "npt"}
    result = openmm_les(*arguments(options), "--output", tmp_path / "run")
    assert result.failed_with(2, "needs a periodic box")
    assert not (tmp_path / "run").exists()


def test_output_that_cannot_be_used(openmm_les: Invoke, water_pdb: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("precious")
    call = arguments(base(water_pdb))
    assert openmm_les(*call, "--output", file).failed_with(2, "exists and is not a folder")
    assert openmm_les(*call, "--output", file / "run").failed_with(2, "cannot write to")
    assert openmm_les(*call, "--output", full).failed_with(2, "is not empty")
    assert file.read_text() == (full / "notes.txt").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "notes.txt"]


def test_resume_of_what_is_no_run(openmm_les: Invoke, tmp_path: Path) -> None:
    assert openmm_les("simulate", "--resume", tmp_path / "none").failed_with(2, "holds no run to resume")
    assert openmm_les("simulate", "--resume", tmp_path).failed_with(2, "settings.json is missing")


def test_damaged_checkpoint_is_refused_and_kept(
    openmm_les: Invoke, quick: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert openmm_les(*quick, "--output", out, "--steps", 4).code == 0
    (out / "checkpoint.chk").write_bytes(b"not a checkpoint")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    result = openmm_les("simulate", "--resume", out, "--steps", 8)
    assert result.failed_with(1, "checkpoint.chk cannot be read")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
