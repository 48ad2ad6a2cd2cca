"""``openmm-les simulate --electric-field``: its column of energies, resumed runs, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from openmm import Vec3, app, unit

from tests.cli.conftest import Invoke
from tests.cli.test_simulate import frames, rows

FIELD = ("--electric-field", 0.0, 0.0, 0.5)
COLUMN = "electric-field energy (kJ/mol)"
KJ = 96.48533212331


@pytest.fixture(scope="module")
def salt_pdb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sodium and a chloride ion among TIP3P waters, 1.3 nm wide."""
    path = tmp_path_factory.mktemp("salt") / "salt.pdb"
    modeller = app.Modeller(app.Topology(), np.zeros((0, 3)) * unit.nanometer)
    box = Vec3(1.3, 1.3, 1.3) * unit.nanometer
    modeller.addSolvent(app.ForceField("amber14/tip3p.xml"), boxSize=box, ionicStrength=1.0 * unit.molar)
    assert any(residue.name == "NA" for residue in modeller.topology.residues())
    with open(path, "w") as file:
        app.PDBFile.writeFile(modeller.topology, modeller.positions, file)
    return path


def test_a_force_field_in_a_field_runs_and_resumes(
    openmm_les: Invoke, quick: list[object], tmp_path: Path
) -> None:
    whole, broken, without = tmp_path / "whole", tmp_path / "broken", tmp_path / "without"
    assert openmm_les(*quick, *FIELD, "--output", whole, "--steps", 8).code == 0
    assert openmm_les(*quick, *FIELD, "--output", broken, "--steps", 4).code == 0
    assert openmm_les("simulate", "--resume", broken, "--steps", 8).code == 0
    assert rows(broken) == rows(whole)
    assert json.loads((whole / "settings.json").read_text())["settings"]["electric_field"] == [0, 0, 0.5]
    assert openmm_les(*quick, "--output", without, "--steps", 8).code == 0
    assert COLUMN not in rows(without)[0]
    # The column is -E M of TIP3P's charges at the positions of the trajectory.
    charges = np.array([-0.834, 0.417, 0.417] * (frames(whole).n_atoms // 3))
    expected = -KJ * 0.5 * frames(whole).xyz[:, :, 2] @ charges
    found = [float(row[COLUMN]) for row in rows(whole) if int(row["step"]) in (4, 8)]
    np.testing.assert_allclose(found, expected, atol=0.05)  # single precision of 500 atoms


@pytest.mark.parametrize(
    "region",
    [
        ("--ml", "all"),
        ("--ml", "resname ALA ACE NME", "--ff", "amber14-all.xml", "--embedding", "electrostatic"),
    ],
)
def test_models_report_their_part(
    openmm_les: Invoke, peptide_pdb: Path, tmp_path: Path, region: tuple[str, ...]
) -> None:
    out = tmp_path / "run"
    options = (*region, *FIELD, "--platform", "Reference", "--no-minimize", "--report-interval", 1)
    result = openmm_les("simulate", peptide_pdb, *options, "--steps", 2, "--output", out, "--seed", 3)
    assert result.code == 0, result.stderr
    values = [float(row[COLUMN]) for row in rows(out)]
    assert len(values) == 3 and 0.5 < min(abs(v) for v in values) < max(abs(v) for v in values) < 100.0


def test_ions_at_constant_pressure_are_refused(
    openmm_les: Invoke, quick: list[object], salt_pdb: Path, tmp_path: Path
) -> None:
    options = [salt_pdb if argument == quick[1] else argument for argument in quick]
    settings = ("--cutoff", 0.5, "--steps", 2)
    result = openmm_les(*options, *settings, *FIELD, "--ensemble", "npt", "--output", tmp_path / "a")
    assert result.failed_with(2, "constant pressure in an electric field needs neutral molecules")
    result = openmm_les(*options, *settings, *FIELD, "--output", tmp_path / "b")
    assert result.code == 0, result.stderr
    result = openmm_les(
        *quick, *FIELD, "--cutoff", 0.5, "--ensemble", "npt", "--steps", 2, "--output", tmp_path / "c"
    )
    assert result.code == 0, result.stderr


def test_a_field_that_is_none(openmm_les: Invoke, quick: list[object], tmp_path: Path) -> None:
    result = openmm_les(*quick, "--electric-field", "nan", 0, 0, "--steps", 2, "--output", tmp_path / "a")
    assert result.failed_with(2, "--electric-field must be three numbers of V/nm")
