"""A small box of water and ways to call the command on it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from openmm import Vec3, app, unit
from typer.testing import CliRunner

from openmm_les.cli.main import app as command

Invoke = Callable[..., "Outcome"]


class Outcome:
    """Exit code and output of a command."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code = code
        self.stdout = stdout
        self.stderr = stderr

    def failed_with(self, code: int, text: str) -> bool:
        """Whether the command failed with a code and one line on stderr that holds a text."""
        lines = self.stderr.strip().splitlines()
        assert lines, "nothing on stderr"
        assert lines[-1].startswith("openmm-les: error: "), self.stderr
        assert len(lines) == 1, self.stderr
        assert text in lines[-1], lines[-1]
        return self.code == code


@pytest.fixture
def openmm_les() -> Invoke:
    """Calls ``openmm-les`` with arguments, in this process."""

    def call(*arguments: object) -> Outcome:
        result = CliRunner().invoke(command, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return call


@pytest.fixture(scope="session")
def water_pdb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A periodic box of TIP3P water, 1.3 nm wide, as PDB."""
    path = tmp_path_factory.mktemp("water") / "water.pdb"
    modeller = app.Modeller(app.Topology(), np.zeros((0, 3)) * unit.nanometer)
    modeller.addSolvent(
        app.ForceField("amber14/tip3p.xml"), boxSize=Vec3(1.3, 1.3, 1.3) * unit.nanometer, neutralize=False
    )
    with open(path, "w") as file:
        app.PDBFile.writeFile(modeller.topology, modeller.positions, file)
    return path


@pytest.fixture
def quick(water_pdb: Path) -> list[object]:
    """Arguments of a quick force-field run of the water; Reference makes it reproducible to the bit."""
    return [
        "simulate",
        water_pdb,
        *("--force-field", "amber14/tip3p.xml"),
        *("--ml", "none", "--cutoff", "0.6", "--platform", "Reference", "--seed", "7"),
        *("--minimize-iterations", "5", "--report-interval", "2", "--frame-interval", "4"),
    ]


@pytest.fixture(scope="session")
def peptide_pdb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ACE-ALA-NME without a box, as the example script writes it."""
    path = tmp_path_factory.mktemp("peptide") / "alanine-dipeptide.pdb"
    script = Path(__file__).parents[2] / "examples" / "make_alanine_dipeptide.py"
    subprocess.run([sys.executable, script, path], check=True)
    return path
