import math

import pytest

from openmm_les import units
from openmm_les.electrostatics import LatentCoulomb
from openmm_les.elements import PAULING_ELECTRONEGATIVITY, atomic_numbers, covalent_radii, symbol


def test_coulomb_constant_from_fundamental_constants():
    # e / (4π ε0) in V·m is eV·m/e²; CODATA 2018.
    e, epsilon_0 = 1.602176634e-19, 8.8541878128e-12
    # 14.399645 is rounded to eight digits: half of the last one is 3.5e-8 relative.
    assert units.COULOMB_CONSTANT == pytest.approx(e / (4 * math.pi * epsilon_0) * 1e10, rel=3.5e-8)


def test_debye_from_fundamental_constants():
    # 1 D = 1e-18 statC·cm = 1e-21/c C·m (c in m/s).
    coulomb_metre = 1e-21 / 299792458.0
    assert units.E_ANGSTROM_PER_DEBYE == pytest.approx(coulomb_metre / 1.602176634e-19 * 1e10, rel=1e-12)


def test_gigapascals_agree_with_ase():
    from ase.units import GPa

    assert pytest.approx(1.0 / GPa, rel=1e-7) == units.GPA_PER_EV_PER_ANGSTROM3


def test_constants_agree_with_openmm():
    unit = pytest.importorskip("openmm.unit")
    assert (1.0 * unit.nanometer).value_in_unit(unit.angstrom) == units.ANGSTROM_PER_NM
    electronvolt = 1.602176634e-19 * unit.joule
    in_kj = (electronvolt * unit.AVOGADRO_CONSTANT_NA).value_in_unit(unit.kilojoule_per_mole)
    # openmm.unit holds the Avogadro constant of CODATA 2018 or earlier.
    assert in_kj == pytest.approx(units.KJ_PER_MOL_PER_EV, rel=1e-7)
    debye = (1.0 * unit.debye).value_in_unit(unit.elementary_charge * unit.angstrom)
    # OpenMM's debye is rounded in its fourth digit; the exact value is tested above.
    assert debye == pytest.approx(units.E_ANGSTROM_PER_DEBYE, rel=2e-4)


def test_constants_of_spectra_agree_with_scipy():
    from scipy import constants

    electronvolt, angstrom, femtosecond = constants.e, 1e-10, 1e-15
    # scipy holds the measured constants of CODATA 2022, ours are those of 2018.
    assert units.VACUUM_PERMITTIVITY == pytest.approx(constants.epsilon_0 / constants.e * angstrom, rel=1e-8)
    assert units.BOLTZMANN_CONSTANT == pytest.approx(constants.k / electronvolt, rel=1e-9)
    assert units.PLANCK_CONSTANT_REDUCED == pytest.approx(
        constants.hbar / electronvolt / femtosecond, rel=1e-9
    )
    assert units.SPEED_OF_LIGHT == pytest.approx(constants.c * femtosecond / angstrom, rel=1e-12)
    assert units.AVOGADRO_CONSTANT == constants.N_A
    mass = constants.atomic_mass * (angstrom / femtosecond) ** 2
    assert units.DALTON == pytest.approx(mass / electronvolt, rel=1e-8)
    # The Coulomb constant once more, by another way.
    assert 1 / (4 * math.pi * units.VACUUM_PERMITTIVITY) == pytest.approx(units.COULOMB_CONSTANT, rel=1e-7)


def test_default_of_the_solver_is_the_constant():
    # Kernels hold no constants; the one default they spell out must stay this one.
    assert LatentCoulomb().coulomb_constant == units.COULOMB_CONSTANT


def test_elements():
    assert symbol(17) == "Cl"
    assert symbol(0) == "Z=0"
    assert symbol(500) == "Z=500"
    assert atomic_numbers["Cl"] == 17
    # Cordero et al., Dalton Trans. 2008, 2832.
    assert covalent_radii[1] == pytest.approx(0.31)
    assert covalent_radii[6] == pytest.approx(0.76)
    # The order of electronegativity that chemistry rests on.
    order = [PAULING_ELECTRONEGATIVITY[z] for z in (9, 8, 17, 7, 6, 1, 11)]
    assert order == sorted(order, reverse=True)
