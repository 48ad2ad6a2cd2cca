"""Both ends of an interpolation, and what lies between them."""

from __future__ import annotations

import numpy as np
import openmm
import pytest
from openmm import app, unit

from openmm_les import create_mixed_system
from openmm_les.embedding.electrostatic import INTERNAL_NAME, TAIL_NAME
from openmm_les.embedding.states import energies_at
from openmm_les.engine.files import system_from_xml
from openmm_les.engine.surroundings import CouplingSettings
from openmm_les.exceptions import EmbeddingError
from tests.embedding.conftest import create_mm_system, solvate
from tests.engine.builders import (
    ROUTES_HERE,
    check_forces,
    energy_of,
    evaluation,
    forces_of,
    make_context,
)

REGIONS = {
    "peptide": (("ACE", "ALA", "NME"), None),
    # Farther apart than the cutoff: exceptions know none.
    "peptide, ion and waters": (("ACE", "ALA", "NME", "NA", "HOH"), 6),
}


def interpolated(solvated, atoms, model, mm_system=None, **options):
    return create_mixed_system(
        solvated.topology,
        solvated.mm_system if mm_system is None else mm_system,
        atoms,
        model,
        "electrostatic",
        interpolate=True,
        precision="double",
        coupling=CouplingSettings(tolerance=1e-5),
        **options,
    )


def unconstrained(system):
    copy = system_from_xml(openmm.XmlSerializer.serialize(system))
    for k in reversed(range(copy.getNumConstraints())):
        copy.removeConstraint(k)
    return copy


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("method", ["PME", "Ewald", "switched"])
def test_zero_is_the_force_field_as_given(anywhere, region, method, model):
    names, count = REGIONS[region]
    atoms = anywhere.atoms_of(*names, count=count)
    mm_system = anywhere.mm_system
    if method != "PME":
        if anywhere.box is None or (method == "Ewald" and anywhere is not solvate("cubic")):
            pytest.skip("there is no such cutoff here")
        settings = {"nonbondedMethod": app.Ewald} if method == "Ewald" else {"switchDistance": 0.5}
        mm_system = create_mm_system(anywhere.topology, **settings)
    context = make_context(
        interpolated(anywhere, atoms, model, mm_system, route="python"), anywhere.positions
    )
    context.setParameter("lambda_interpolate", 0.0)
    plain = make_context(mm_system, anywhere.positions)
    assert energy_of(context) == pytest.approx(energy_of(plain), rel=1e-10, abs=1e-6)
    forces = forces_of(plain)
    np.testing.assert_allclose(forces_of(context), forces, atol=1e-9 * np.abs(forces).max())


def test_zero_needs_the_tail(model):
    """Without it pairs beyond the cutoff would be counted, as others do."""
    solvated = solvate("cubic")
    names, count = REGIONS["peptide, ion and waters"]
    system = interpolated(solvated, solvated.atoms_of(*names, count=count), model, route="python")
    number = [force.getName() for force in system.getForces()].index(TAIL_NAME)
    system.getForce(number).setForceGroup(9)
    context = make_context(system, solvated.positions)
    context.setParameter("lambda_interpolate", 0.0)
    tail = context.getState(getEnergy=True, groups={9}).getPotentialEnergy()
    assert abs(tail.value_in_unit(unit.kilojoule_per_mole)) > 0.01


def test_one_is_the_hybrid(anywhere, model, route="python"):
    whole = make_context(interpolated(anywhere, anywhere.peptide, model, route=route), anywhere.positions)
    hybrid = create_mixed_system(
        anywhere.topology,
        anywhere.mm_system,
        anywhere.peptide,
        model,
        "electrostatic",
        route=route,
        precision="double",
        coupling=CouplingSettings(tolerance=1e-5),
    )
    context = make_context(hybrid, anywhere.positions)
    assert energy_of(whole) == pytest.approx(energy_of(context), rel=1e-11)
    np.testing.assert_allclose(forces_of(whole), forces_of(context), atol=1e-6)
    for parts in (whole, context):
        parts.setParameter("lambda_electrostatics", 0.3)
    assert energy_of(whole) == pytest.approx(energy_of(context), rel=1e-11)
    assert set(anywhere.peptide) in [set(molecule) for molecule in whole.getMolecules()]


def test_constraints_of_the_region_stay(solvated, model):
    system = interpolated(solvated, solvated.peptide, model, route="python")
    assert system.getNumConstraints() == solvated.mm_system.getNumConstraints()
    names = [force.getName() for force in system.getForces()]
    assert {INTERNAL_NAME, TAIL_NAME} <= set(names)


@pytest.mark.parametrize("route", ROUTES_HERE)
def test_between_the_ends_forces_are_derivatives(solvated, model, route):
    system = unconstrained(interpolated(solvated, solvated.peptide, model, route=route))
    context = make_context(system, solvated.positions)
    context.setParameter("lambda_interpolate", 0.4)
    context.setParameter("lambda_electrostatics", 0.7)
    water = solvated.atoms_of("HOH", count=1)
    components = [(solvated.peptide[3], 1), (solvated.peptide[8], 0), (water[1], 2)]
    check_forces(evaluation(context), solvated.positions, components, 2e-6)


def test_energies_of_several_states(solvated, model):
    context = make_context(
        interpolated(solvated, solvated.peptide, model, route="python"), solvated.positions
    )
    context.setParameter("lambda_electrostatics", 0.8)
    states = [{"lambda_electrostatics": x} for x in (0.0, 0.5, 1.0)] + [{"lambda_interpolate": 0.0}]
    energies = energies_at(context, states)
    assert dict(context.getParameters()) == {"lambda_electrostatics": 0.8, "lambda_interpolate": 1.0}
    assert energies[1] == pytest.approx(energies[[0, 2]].mean(), rel=1e-9)
    plain = energy_of(make_context(solvated.mm_system, solvated.positions))
    assert energies[3] == pytest.approx(plain, rel=1e-10)
    with pytest.raises(
        ValueError, match=r"no parameter 'lambda'; it has lambda_electrostatics, lambda_inter"
    ):
        energies_at(context, [{"lambda": 1.0}])


def test_parameters_are_put_back_when_an_energy_fails():
    class Failing:
        values = {"lambda_electrostatics": 0.8}

        def getParameters(self):
            return self.values

        def setParameter(self, name, value):
            self.values = {**self.values, name: value}

        def getState(self, **_):
            raise openmm.OpenMMException("particle coordinate is NaN")

    context = Failing()
    with pytest.raises(openmm.OpenMMException, match="NaN"):
        energies_at(context, [{"lambda_electrostatics": 0.5}])
    assert context.values == {"lambda_electrostatics": 0.8}


@pytest.mark.parametrize("route", ROUTES_HERE)
def test_derivatives_by_parameters_are_refused(solvated, model, route):
    """OpenMM would say 0, or what one force knows of: none may be taken for a free-energy derivative."""
    context = make_context(
        interpolated(solvated, solvated.peptide, model, route=route), solvated.positions, "CPU"
    )
    state = context.getState(getParameterDerivatives=True, getEnergy=True, getForces=True)
    derivatives = dict(state.getEnergyParameterDerivatives())
    assert set(derivatives) == {"lambda_electrostatics", "lambda_interpolate"}
    assert np.isnan(list(derivatives.values())).all()
    assert np.isfinite(state.getForces(asNumpy=True)._value).all()


def test_what_cannot_be_interpolated_is_refused(solvated, model):
    system = system_from_xml(openmm.XmlSerializer.serialize(solvated.mm_system))
    pairwise = openmm.CustomNonbondedForce("0*r")
    for _ in range(system.getNumParticles()):
        pairwise.addParticle([])
    system.addForce(pairwise)
    with pytest.raises(EmbeddingError, match="CustomNonbondedForce cannot be interpolated"):
        interpolated(solvated, solvated.peptide, model, system, route="python")
    ljpme = create_mm_system(solvated.topology, nonbondedMethod=app.LJPME)
    with pytest.raises(EmbeddingError, match="LJPME cannot be interpolated"):
        interpolated(solvated, solvated.peptide, model, ljpme, route="python")
