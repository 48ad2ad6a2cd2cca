"""Constants and unit factors, each with its source.

Inside the package: Å, eV, e, Da, fs. At OpenMM's side: nm, kJ/mol, e, ps.
"""

COULOMB_CONSTANT = 14.399645
"""e²/(4πε₀) in eV·Å/e² (CODATA 2018, the eight digits used by the LES papers)."""

OPENMM_COULOMB_CONSTANT = 138.93545764438198
"""1/(4πε₀) in kJ·nm/(mol·e²), to the last digit what OpenMM's NonbondedForce computes with."""

ANGSTROM_PER_NM = 10.0
KJ_PER_MOL_PER_EV = 96.48533212331
"""kJ/mol in one eV: e·N_A / 1000, both exact in the SI of 2019."""

E_ANGSTROM_PER_DEBYE = 0.20819433270935597
"""e·Å in one debye: 1e-21 C·m²·s⁻¹ / c / e (CODATA 2018)."""

FS_PER_PS = 1000.0

VACUUM_PERMITTIVITY = 0.005526349406
"""ε₀ in e²/(eV·Å) (CODATA 2018)."""
BOLTZMANN_CONSTANT = 8.617333262e-5
"""eV/K, exact in the SI of 2019 to the digits given."""
PLANCK_CONSTANT_REDUCED = 0.6582119569
"""ħ in eV·fs, exact in the SI of 2019 to the digits given."""
SPEED_OF_LIGHT = 2997.92458
"""Å/fs, exact."""
AVOGADRO_CONSTANT = 6.02214076e23
"""1/mol, exact in the SI of 2019."""
DALTON = 103.642697
"""eV·fs²/Å², one atomic mass unit (CODATA 2018)."""

GPA_PER_EV_PER_ANGSTROM3 = 160.2176634
"""GPa in one eV/Å³: e·1e30 / 1e9, exact in the SI of 2019."""
