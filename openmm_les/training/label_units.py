"""Units of labels, as files and flags write them, by the constants of `ase.units`."""

from __future__ import annotations

import re

from ase import units

from openmm_les.exceptions import DataError

# Factor into eV, Å, e and powers of (energy, length, charge).
_UNITS: dict[str, tuple[float, tuple[int, int, int]]] = {
    "ev": (1.0, (1, 0, 0)),
    "mev": (1e-3, (1, 0, 0)),
    "hartree": (units.Hartree, (1, 0, 0)),
    "hartrees": (units.Hartree, (1, 0, 0)),
    "ha": (units.Hartree, (1, 0, 0)),
    "rydberg": (units.Rydberg, (1, 0, 0)),
    "ry": (units.Rydberg, (1, 0, 0)),
    "kcal": (units.kcal, (1, 0, 0)),
    "kj": (units.kJ, (1, 0, 0)),
    "mol": (units.mol, (0, 0, 0)),
    "angstrom": (1.0, (0, 1, 0)),
    "angstroms": (1.0, (0, 1, 0)),
    "ang": (1.0, (0, 1, 0)),
    "å": (1.0, (0, 1, 0)),
    "a": (1.0, (0, 1, 0)),
    "nm": (units.nm, (0, 1, 0)),
    "nanometer": (units.nm, (0, 1, 0)),
    "bohr": (units.Bohr, (0, 1, 0)),
    "a0": (units.Bohr, (0, 1, 0)),
    "e": (1.0, (0, 0, 1)),
    "elementary_charge": (1.0, (0, 0, 1)),
    "debye": (units.Debye, (0, 1, 1)),
    "d": (units.Debye, (0, 1, 1)),
    "gpa": (units.GPa, (1, -3, 0)),
    "mpa": (1e-3 * units.GPa, (1, -3, 0)),
    "kbar": (0.1 * units.GPa, (1, -3, 0)),
    "bar": (units.bar, (1, -3, 0)),
}
DIMENSIONS = {
    "energy": (1, 0, 0),
    "length": (0, 1, 0),
    "force": (1, -1, 0),
    "stress": (1, -3, 0),
    "dipole": (0, 1, 1),
    "charge": (0, 0, 1),
}
_EXAMPLES = {
    "energy": "eV, hartree, kcal/mol",
    "length": "Å, nm, bohr",
    "force": "eV/Å, hartree/bohr, kcal/mol/Å",
    "stress": "eV/Å^3, GPa, kbar; an energy for the virial dE/dstrain",
    "dipole": "e*Å, e*bohr, debye",
    "charge": "e",
}


def unit_factor(unit: str, kind: str) -> float:
    """Number of our units (eV, Å, e and their products) in one ``unit`` of a kind of quantity.

    Parameters
    ----------
    unit : names joined by ``*``, ``/`` and ``^``, as ``kcal/mol/angstrom``; case is ignored
    kind : a key of `DIMENSIONS`

    Raises
    ------
    DataError
        A name that is not known, or a unit of something else.
    """
    factor, dimensions = _parse(unit)
    if dimensions != DIMENSIONS[kind]:
        raise DataError(f"{unit!r} is no unit of {kind}; write for example {_EXAMPLES[kind]}")
    return factor


def is_unit_of(unit: str, kind: str) -> bool:
    """Whether a (known) unit measures a kind of quantity."""
    return _parse(unit)[1] == DIMENSIONS[kind]


def _parse(unit: str) -> tuple[float, tuple[int, ...]]:
    """Factor and dimensions of a unit."""
    factor = 1.0
    dimensions: tuple[int, ...] = (0, 0, 0)
    sign = 1
    text = unit.strip().lower().replace("**", "^").replace("³", "^3").replace("·", "*")
    for token in re.split(r"([*/ ])", text):
        if token in ("*", " ", ""):
            continue
        if token == "/":
            sign = -1
            continue
        name, _, power = token.partition("^")
        if name not in _UNITS or not (power or "1").lstrip("-").isdigit():
            raise DataError(f"{unit!r} is no unit that is known: {', '.join(_UNITS)} and their products")
        exponent = sign * int(power or 1)
        value, powers = _UNITS[name]
        factor *= value**exponent
        dimensions = tuple(d + exponent * p for d, p in zip(dimensions, powers))
        sign = 1
    return factor, dimensions


__all__ = ["DIMENSIONS", "is_unit_of", "unit_factor"]
