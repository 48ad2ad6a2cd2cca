"""Per-element data of the elements 1 to 118, indexed by atomic number (entry 0 is unused)."""

from __future__ import annotations

from ase.data import atomic_numbers, chemical_symbols, covalent_radii

# Pauling electronegativities (A. L. Allred, J. Inorg. Nucl. Chem. 17, 215 (1961), and later
# compilations); elements that form no bonds are absent.
PAULING_ELECTRONEGATIVITY = {
    1: 2.20, 3: 0.98, 4: 1.57, 5: 2.04, 6: 2.55, 7: 3.04, 8: 3.44, 9: 3.98, 11: 0.93, 12: 1.31,
    13: 1.61, 14: 1.90, 15: 2.19, 16: 2.58, 17: 3.16, 19: 0.82, 20: 1.00, 21: 1.36, 22: 1.54,
    23: 1.63, 24: 1.66, 25: 1.55, 26: 1.83, 27: 1.88, 28: 1.91, 29: 1.90, 30: 1.65, 31: 1.81,
    32: 2.01, 33: 2.18, 34: 2.55, 35: 2.96, 36: 3.00, 37: 0.82, 38: 0.95, 39: 1.22, 40: 1.33,
    41: 1.60, 42: 2.16, 43: 1.90, 44: 2.20, 45: 2.28, 46: 2.20, 47: 1.93, 48: 1.69, 49: 1.78,
    50: 1.96, 51: 2.05, 52: 2.10, 53: 2.66, 54: 2.60, 55: 0.79, 56: 0.89,
}  # fmt: skip


# Static dipole polarizabilities of free atoms, Å³ (P. Schwerdtfeger and J. K. Nagle, Mol. Phys. 117,
# 1200 (2019), in bohr³ there), of the elements of organic molecules.
FREE_ATOM_POLARIZABILITY = {
    1: 0.667, 5: 3.04, 6: 1.67, 7: 1.10, 8: 0.785, 9: 0.554, 14: 5.53, 15: 3.70, 16: 2.87, 17: 2.16,
    34: 4.28, 35: 3.11, 53: 4.88,
}  # fmt: skip


def symbol(number: int) -> str:
    """Symbol of an atomic number, or ``Z=…`` where there is none."""
    return chemical_symbols[number] if 0 < number < len(chemical_symbols) else f"Z={number}"


__all__ = [
    "FREE_ATOM_POLARIZABILITY",
    "PAULING_ELECTRONEGATIVITY",
    "atomic_numbers",
    "chemical_symbols",
    "covalent_radii",
    "symbol",
]
