"""Electrostatic embedding: latent charges meet MM charges, the force field keeps the rest.

In the force field's NonbondedForce the region's charges are zero and its Lennard-Jones terms across
the border stay; every term within the region goes. The Coulomb energy between region and
surroundings, images included, is the ML force's (`openmm_les.electrostatics.ChargeCoupling`).

For interpolation (`interpolated_system`) the same is written as parameter offsets, so that
``lambda_interpolate`` = 0 is the force field as given and 1 the hybrid.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import openmm
from openmm import unit

from openmm_les.embedding.mechanical import (
    LONG_RANGE,
    check_nonbonded,
    check_separable,
    join_molecules,
    remove_internal_terms,
    split_terms,
)
from openmm_les.embedding.regions import Region
from openmm_les.engine.boundary import LAMBDA_INTERPOLATE
from openmm_les.engine.embedded import LAMBDA_ELECTROSTATICS
from openmm_les.engine.files import system_from_xml
from openmm_les.engine.surroundings import CouplingSettings, Surroundings
from openmm_les.exceptions import EmbeddingError
from openmm_les.units import OPENMM_COULOMB_CONSTANT

_ROOM = 0.94
_LEAST_CUTOFF = 5.0  # Å
INTERNAL_NAME = "MM terms of the ML region"
TAIL_NAME = "MM cutoff of the ML region"


def find_surroundings(system: openmm.System, region: Region) -> Surroundings:
    """MM charges around a region, and what a force field says of its pairs over the border.

    Parameters
    ----------
    system : of the force field, as given
    region : from `find_region`

    Raises
    ------
    EmbeddingError
        No NonbondedForce or several, a cutoff without long-range electrostatics, charges that
        depend on parameters, ML heavy atoms without Lennard-Jones, an exception over the border
        that is no fraction of the pair's interaction.
    """
    force = nonbonded_force(system)
    _check_method(force)
    _check_parameters(system, force, region)
    _check_cores(system, force, region)
    charges, _, epsilons = nonbonded_parameters(force)
    chosen = set(region.atoms)
    atoms = [i for i in range(force.getNumParticles()) if i not in chosen and charges[i] != 0.0]
    place_ml = {atom: k for k, atom in enumerate(region.atoms)}
    place_mm = {atom: k for k, atom in enumerate(atoms)}
    excluded, shares = [], []
    for k in range(force.getNumExceptions()):
        i, j, product = force.getExceptionParameters(k)[:3]
        if (i in chosen) == (j in chosen):
            continue
        ml, mm = (i, j) if i in chosen else (j, i)
        kept = _kept_share(product.value_in_unit(unit.elementary_charge**2), charges, ml, mm)
        if mm in place_mm and kept != 1.0:
            excluded.append((place_ml[ml], place_mm[mm]))
            shares.append(1.0 - kept)
    bare = [k for k, atom in enumerate(atoms) if epsilons[atom] == 0.0]
    if has_other_cores(system):
        bare = []
    return Surroundings(atoms, charges[atoms].tolist(), bare, excluded, shares)


def coupling_settings(
    system: openmm.System, wanted: CouplingSettings | None
) -> tuple[bool, CouplingSettings]:
    """Whether a system's charges have images, and settings whose cutoff fits into its box.

    Parameters
    ----------
    system : of the force field, its default box is what counts
    wanted : None = the defaults

    Raises
    ------
    EmbeddingError
        A box too narrow for any useful cutoff.
    """
    settings = CouplingSettings() if wanted is None else wanted
    if nonbonded_force(system).getNonbondedMethod() == openmm.NonbondedForce.NoCutoff:
        return False, settings
    box = np.array([v.value_in_unit(unit.angstrom) for v in system.getDefaultPeriodicBoxVectors()])
    widths = 1.0 / np.linalg.norm(np.linalg.inv(box), axis=0)
    # Some room for a barostat.
    cutoff = min(settings.cutoff, 0.5 * _ROOM * float(widths.min()))
    if cutoff < _LEAST_CUTOFF:
        raise EmbeddingError(
            f"the box is {widths.min():.1f} Å wide; electrostatic embedding needs "
            f"{2 * _LEAST_CUTOFF / _ROOM:.1f} Å"
        )
    return True, replace(settings, cutoff=cutoff)


def embedded_system(mm_system: openmm.System, region: Region) -> openmm.System:
    """Copy of a force field's system without the region's charges and its terms within the region.

    Raises EmbeddingError as `openmm_les.embedding.mechanical.remove_internal_terms`.
    """
    system = remove_internal_terms(mm_system, region)
    force = nonbonded_force(system)
    for i in region.atoms:
        _, sigma, epsilon = force.getParticleParameters(i)
        force.setParticleParameters(i, 0.0, sigma, epsilon)
    chosen = set(region.atoms)
    for k in range(force.getNumExceptions()):
        i, j, _, sigma, epsilon = force.getExceptionParameters(k)
        if (i in chosen) != (j in chosen):
            force.setExceptionParameters(k, i, j, 0.0, sigma, epsilon)
    return system


def interpolated_system(mm_system: openmm.System, region: Region) -> openmm.System:
    """Copy of a force field's system that ``lambda_interpolate`` turns into `embedded_system`.

    At 0 it is the system as given, at 1 the embedded one; between, charges and the terms within the
    region fade linearly. Constraints within the region stay, at any value.

    Raises
    ------
    EmbeddingError
        As `embedded_system`; a CustomNonbondedForce or LJPME, which cannot be interpolated.
    """
    root = ElementTree.fromstring(openmm.XmlSerializer.serialize(mm_system))
    forces = root.find("./Forces")
    assert forces is not None
    inner = []
    for force in forces:
        check_separable(force)
        if force.get("type") in ("CustomNonbondedForce", "NonbondedForce"):
            method = int(force.get("method", "0"))
            if force.get("type") == "CustomNonbondedForce" or method == openmm.NonbondedForce.LJPME:
                name = "CustomNonbondedForce" if force.get("type") == "CustomNonbondedForce" else "LJPME"
                raise EmbeddingError(
                    f"{name} cannot be interpolated; use interpolate=False, or a force field without it"
                )
        within = split_terms(force, set(region.atoms))
        if within is not None:
            inner.append(within)
    system = system_from_xml(ElementTree.tostring(root, encoding="unicode"))
    check_nonbonded(nonbonded_force(system), region.atoms)
    if inner:
        system.addForce(_fading_force(inner))
    tail = _fade_nonbonded(nonbonded_force(system), region.atoms)
    if tail is not None:
        system.addForce(tail)
    join_molecules(system, region)
    return system


def nonbonded_force(system: openmm.System) -> openmm.NonbondedForce:
    """The NonbondedForce of a system; raises EmbeddingError unless there is exactly one."""
    found = [force for force in system.getForces() if isinstance(force, openmm.NonbondedForce)]
    if len(found) != 1:
        raise EmbeddingError(
            "electrostatic embedding and electric fields take the MM charges from one NonbondedForce, the "
            f"system has {len(found)}"
        )
    return found[0]


def nonbonded_parameters(force: openmm.NonbondedForce) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Charges (e), σ (nm) and ε (kJ/mol) of all particles, each [n_particles]."""
    rows = [force.getParticleParameters(i) for i in range(force.getNumParticles())]
    table = np.array([[value._value for value in row] for row in rows]).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]


def ewald_alpha(force: openmm.NonbondedForce) -> float:
    """Splitting parameter (1/nm) that OpenMM takes for a force with Ewald or PME."""
    alpha = force.getPMEParameters()[0].value_in_unit(unit.nanometer**-1)
    if alpha != 0.0 and force.getNonbondedMethod() != openmm.NonbondedForce.Ewald:
        return float(alpha)
    cutoff = force.getCutoffDistance().value_in_unit(unit.nanometer)
    return math.sqrt(-math.log(2.0 * force.getEwaldErrorTolerance())) / cutoff


def _check_method(force: openmm.NonbondedForce) -> None:
    if force.getNonbondedMethod() not in (*LONG_RANGE, openmm.NonbondedForce.NoCutoff):
        raise EmbeddingError(
            "the force field cuts electrostatics off (reaction field) while latent charges feel all MM "
            "charges; create the MM system with nonbondedMethod=PME (or NoCutoff, isolated)"
        )


def _check_parameters(system: openmm.System, force: openmm.NonbondedForce, region: Region) -> None:
    ours = {LAMBDA_INTERPOLATE, LAMBDA_ELECTROSTATICS}
    for other in system.getForces():
        if hasattr(other, "getNumGlobalParameters"):
            names = {other.getGlobalParameterName(k) for k in range(other.getNumGlobalParameters())}
            if names & ours:
                raise EmbeddingError(
                    f"{other.getName()} of the force field has a global parameter {min(names & ours)!r} of "
                    "its own; its derivatives and ours would be mixed up: rename it"
                )
    for k in range(force.getNumParticleParameterOffsets()):
        name, atom, charge = force.getParticleParameterOffset(k)[:3]
        if charge != 0.0:
            raise EmbeddingError(
                f"the force field's charge of particle {atom} depends on the global parameter {name!r}; "
                "electrostatic embedding needs constant MM charges"
            )
    chosen = set(region.atoms)
    for k in range(force.getNumExceptionParameterOffsets()):
        name, exception = force.getExceptionParameterOffset(k)[:2]
        if chosen & set(force.getExceptionParameters(exception)[:2]):
            raise EmbeddingError(
                f"the force field's exceptions of ML atoms depend on the global parameter {name!r}"
            )


def _check_cores(system: openmm.System, force: openmm.NonbondedForce, region: Region) -> None:
    """Refuse heavy ML atoms that nothing keeps an MM charge away from."""
    if has_other_cores(system):
        return
    for atom, number in zip(region.atoms, region.numbers):
        epsilon = force.getParticleParameters(atom)[2]
        if number > 1 and epsilon._value == 0.0:
            raise EmbeddingError(
                f"ML atom {atom} has no Lennard-Jones term in the force field: MM hydrogens would fall into "
                "its latent charge"
            )


def has_other_cores(system: openmm.System) -> bool:
    """Whether another force may hold the repulsion between atoms (CHARMM's NBFIX, 12-6-4)."""
    return any(isinstance(force, openmm.CustomNonbondedForce) for force in system.getForces())


def _kept_share(product: float, charges: np.ndarray, ml: int, mm: int) -> float:
    """Part of a border pair's Coulomb interaction that its exception keeps."""
    whole = charges[ml] * charges[mm]
    if product == 0.0:
        return 0.0
    if whole == 0.0:
        raise EmbeddingError(
            f"the exception of ML atom {ml} and MM atom {mm} has a charge product of {product:g} while one "
            "of them has no charge: there is no share of the pair's interaction to carry over"
        )
    return float(product / whole)


def _fading_force(inner: list[ElementTree.Element]) -> openmm.Force:
    """The region's bonded terms, scaled by 1 - lambda_interpolate."""
    names = [f"term{k}" for k in range(len(inner))]
    force = openmm.CustomCVForce(f"(1-{LAMBDA_INTERPOLATE})*({'+'.join(names)})")
    force.addGlobalParameter(LAMBDA_INTERPOLATE, 1.0)
    for name, element in zip(names, inner):
        force.addCollectiveVariable(
            name, openmm.XmlSerializer.deserialize(ElementTree.tostring(element, encoding="unicode"))
        )
    force.setName(INTERNAL_NAME)
    return force


def _fade_nonbonded(force: openmm.NonbondedForce, atoms: list[int]) -> openmm.Force | None:
    """Offsets that take the region's charges and inner terms away as lambda_interpolate goes to 1.

    Returns what exceptions do not know, the cutoff and its switching function, for the pairs that
    were none before; None where there is no cutoff.
    """
    charges, sigmas, epsilons = nonbonded_parameters(force)
    chosen = set(atoms)
    force.addGlobalParameter(LAMBDA_INTERPOLATE, 1.0)
    for i in atoms:
        if charges[i] != 0.0:
            force.addParticleParameterOffset(LAMBDA_INTERPOLATE, i, -charges[i], 0.0, 0.0)
    known = set()
    for k in range(force.getNumExceptions()):
        i, j, product, _, epsilon = force.getExceptionParameters(k)
        if not {i, j} & chosen:
            continue
        inside = {i, j} <= chosen
        if inside:
            known.add((min(i, j), max(i, j)))
        fading = epsilon._value if inside else 0.0
        if product._value != 0.0 or fading != 0.0:
            force.addExceptionParameterOffset(LAMBDA_INTERPOLATE, k, -product._value, 0.0, -fading)
    pairs = [pair for pair in combinations(sorted(atoms), 2) if pair not in known]
    tail = _cutoff_force(force) if force.usesPeriodicBoundaryConditions() else None
    for i, j in pairs:
        product = charges[i] * charges[j]
        sigma, epsilon = 0.5 * (sigmas[i] + sigmas[j]), math.sqrt(epsilons[i] * epsilons[j])
        k = force.addException(i, j, product, sigma, epsilon)
        if product != 0.0 or epsilon != 0.0:
            force.addExceptionParameterOffset(LAMBDA_INTERPOLATE, k, -product, 0.0, -epsilon)
            if tail is not None:
                tail.addBond(i, j, [product, sigma, epsilon])
    if force.usesPeriodicBoundaryConditions():
        force.setExceptionsUsePeriodicBoundaryConditions(True)
    return tail


def _cutoff_force(force: openmm.NonbondedForce) -> openmm.CustomBondForce:
    """Force that takes off from pairs what a NonbondedForce leaves out beyond its cutoff."""
    cutoff = force.getCutoffDistance().value_in_unit(unit.nanometer)
    begin = cutoff
    if force.getUseSwitchingFunction():
        begin = force.getSwitchingDistance().value_in_unit(unit.nanometer)
    tail = openmm.CustomBondForce(
        f"-(1-{LAMBDA_INTERPOLATE})*(step(r-cutoff)*coulomb*product*erfc(alpha*r)/r"
        "+4*epsilon*((sigma/r)^12-(sigma/r)^6)*left);"
        "left=select(step(r-cutoff),1,step(r-begin)*x^3*(10-15*x+6*x^2));x=(r-begin)/width"
    )
    tail.addGlobalParameter(LAMBDA_INTERPOLATE, 1.0)
    constants = {
        "cutoff": cutoff,
        "begin": begin,
        "width": max(cutoff - begin, 1e-6),
        "alpha": ewald_alpha(force),
        "coulomb": OPENMM_COULOMB_CONSTANT,
    }
    expression = tail.getEnergyFunction()
    tail.setEnergyFunction(expression + "".join(f";{name}={value!r}" for name, value in constants.items()))
    for name in ("product", "sigma", "epsilon"):
        tail.addPerBondParameter(name)
    tail.setUsesPeriodicBoundaryConditions(True)
    tail.setName(TAIL_NAME)
    return tail


__all__ = [
    "INTERNAL_NAME",
    "TAIL_NAME",
    "coupling_settings",
    "embedded_system",
    "ewald_alpha",
    "find_surroundings",
    "has_other_cores",
    "interpolated_system",
    "nonbonded_force",
    "nonbonded_parameters",
]
