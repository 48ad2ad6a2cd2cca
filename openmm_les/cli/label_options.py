"""Options about the labels of data files, shared by commands that read some."""

from __future__ import annotations

from typing import Annotated

import typer

_PANEL = "Labels"


def _option(text: str) -> typer.models.OptionInfo:
    return typer.Option(help=text, rich_help_panel=_PANEL, show_default=False)


EnergyKey = Annotated[str, _option("Name of the energies.")]
ForcesKey = Annotated[str, _option('Name of the forces; with "grad" in it: of the gradients.')]
StressKey = Annotated[str, _option("Name of the stresses.")]
DipoleKey = Annotated[str, _option("Name of the dipoles.")]
BornChargesKey = Annotated[str, _option("Name of the Born effective charges.")]
PolarizabilityKey = Annotated[str, _option("Name of the polarizabilities, Å³.")]
ChargeKey = Annotated[str, _option("Name of the total charges, e.")]
EnergyUnit = Annotated[str, _option("eV, hartree, kcal/mol …; default: what the file or its format says.")]
LengthUnit = Annotated[str, _option("Of positions and cells: Å, nm, bohr.")]
ForceUnit = Annotated[str, _option("eV/Å, hartree/bohr, kcal/mol/Å …")]
StressUnit = Annotated[str, _option("eV/Å^3, GPa, kbar …; an energy for dE/dstrain.")]
DipoleUnit = Annotated[str, _option("e*Å, e*bohr, debye.")]
BornChargesOrder = Annotated[
    str, _option("Axes of Born charges: polarisation-displacement (default) or displacement-polarisation.")
]
