"""The table of a run, read, summed up and plotted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openmm_les.analysis.energies import plot_energies, read_energies, summarize

HEADER = (
    "step,time (ps),potential energy (kJ/mol),kinetic energy (kJ/mol),total energy (kJ/mol),"
    "temperature (K),volume (nm^3),density (g/mL),speed (ns/day)\n"
)


def table(path: Path, n_rows: int, box: bool) -> Path:
    """A run of which the total energy falls by 3 kJ/mol/ps after a first half that does not count."""
    lines = [HEADER]
    for i in range(n_rows):
        time = 0.1 * i
        potential = 1e4 if i < n_rows // 2 else -500.0 - 3.0 * time
        volume, density = ("8.0", "0.997") if box else ("", "")
        speed = "" if i == 0 else str(10.0 + i)
        lines.append(
            f"{i * 100},{time},{potential},100.0,{potential + 100.0},{290 + i},{volume},{density},{speed}\n"
        )
    path.write_text("".join(lines))
    return path


def test_summary_leaves_the_beginning_out(tmp_path: Path) -> None:
    summary = summarize(read_energies(table(tmp_path / "energies.csv", 21, box=True)))
    assert summary.time == pytest.approx(2.0)
    assert summary.drift == pytest.approx(-3.0)
    assert summary.temperature.mean == pytest.approx(305.0)
    assert summary.temperature.deviation == pytest.approx(np.sqrt(10.0))
    assert summary.total.mean == pytest.approx(-404.5)
    assert summary.density is not None
    assert summary.density.mean == pytest.approx(0.997)
    assert summary.speed == pytest.approx(25.0)


def test_summary_of_a_short_run_without_a_box(tmp_path: Path) -> None:
    summary = summarize(read_energies(table(tmp_path / "energies.csv", 1, box=False)))
    assert summary.density is None
    assert np.isnan(summary.drift)
    assert np.isnan(summary.speed)


def test_discard_is_checked(tmp_path: Path) -> None:
    energies = read_energies(table(tmp_path / "energies.csv", 3, box=False))
    with pytest.raises(ValueError, match="`discard` must lie between 0 and 1, got 1"):
        summarize(energies, discard=1)


@pytest.mark.parametrize("box", [True, False])
def test_plot_has_a_panel_for_each_quantity(tmp_path: Path, box: bool) -> None:
    from matplotlib.image import imread

    energies = read_energies(table(tmp_path / "energies.csv", 5, box))
    plot_energies(energies, tmp_path / "energies.png", "title")
    height, width = imread(tmp_path / "energies.png").shape[:2]
    assert width == 1050
    assert height == (1035 if box else 690)


@pytest.mark.parametrize("text", ["", HEADER, "a,b\n1,2\n"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "energies.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match="is not a table of energies"):
        read_energies(path)
