"""Mechanical embedding: the force field keeps every term but those within the ML region.

Across the border charges and Lennard-Jones act as in the force field, by its own cutoffs and PME.
Within the region every term of the force field is taken out. The images of the region's charges
cannot be taken out of its mesh; the ML force subtracts their energy (`images_of_region`), because latent
charges have images of their own.
"""

from __future__ import annotations

import copy
import logging
import re
import warnings
from itertools import combinations
from xml.etree import ElementTree

import openmm
from openmm import unit

from openmm_les.embedding.regions import Region
from openmm_les.engine.connectivity import connectivity_force
from openmm_les.engine.files import system_from_xml
from openmm_les.exceptions import EmbeddingError
from openmm_les.models.heads import NoCharges
from openmm_les.models.model import LESModel

logger = logging.getLogger(__name__)

# Terms over named atoms: those with all atoms in the region go.
_BONDED = {
    "HarmonicBondForce",
    "HarmonicAngleForce",
    "PeriodicTorsionForce",
    "RBTorsionForce",
    "CMAPTorsionForce",
    "CustomBondForce",
    "CustomAngleForce",
    "CustomTorsionForce",
    "CustomCompoundBondForce",
}
# Energies of all atoms at once: there is no way to take the region's own part out.
_INSEPARABLE = re.compile(
    r"GBSAOBCForce|CustomGBForce|Amoeba\w+|Hippo\w+|DrudeForce|GayBerneForce|CustomHbondForce"
    r"|CustomManyParticleForce|ATMForce|ConstantPotentialForce"
)
LONG_RANGE = (openmm.NonbondedForce.Ewald, openmm.NonbondedForce.PME, openmm.NonbondedForce.LJPME)


def remove_internal_terms(mm_system: openmm.System, region: Region) -> openmm.System:
    """Copy of a system without the force field's energy within the region.

    Bonded terms and constraints inside the region go; its pairs become exceptions. Bonds of zero
    strength keep its molecules together for a barostat. What remains are the region's images in the
    mesh (PME): see `images_of_region`.

    Parameters
    ----------
    mm_system : not changed
    region : from `find_region`

    Raises
    ------
    EmbeddingError
        A force that does not split into terms, a periodic cutoff without long-range
        electrostatics, or charges of the region that depend on a parameter.
    """
    root = ElementTree.fromstring(openmm.XmlSerializer.serialize(mm_system))
    chosen = set(region.atoms)
    for force in root.findall("./Forces/Force"):
        check_separable(force)
        split_terms(force, chosen)
    constraints = root.find("./Constraints")
    if constraints is not None:
        constraints[:] = [c for c in constraints if not _inside(c, chosen)]
    system = system_from_xml(ElementTree.tostring(root, encoding="unicode"))
    exclude_pairs(system, region.atoms)
    join_molecules(system, region)
    return system


def exclude_pairs(system: openmm.System, atoms: list[int]) -> None:
    """Make every pair of ``atoms`` an exception (0, 1, 0) or exclusion of all pair forces."""
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            check_nonbonded(force, atoms)
            for i, j in combinations(atoms, 2):
                force.addException(i, j, 0.0, 1.0, 0.0, True)
            if force.usesPeriodicBoundaryConditions():
                # Otherwise the energy would change when one ML atom moves by a box vector.
                force.setExceptionsUsePeriodicBoundaryConditions(True)
        elif isinstance(force, openmm.CustomNonbondedForce):
            pairs = (force.getExclusionParticles(k) for k in range(force.getNumExclusions()))
            existing = {tuple(sorted(pair)) for pair in pairs}
            for pair in combinations(sorted(atoms), 2):
                if pair not in existing:
                    force.addExclusion(*pair)


def images_of_region(system: openmm.System, atoms: list[int], model: LESModel) -> list[float] | None:
    """Charges of ``atoms`` (e) whose periodic images the model's take the place of, or None without any.

    With all pairs of ``atoms`` excluded, a NonbondedForce with PME still holds the interaction of
    each charge with the images of all others and of itself. A model without charges has no images of
    its own: the force field's stay.

    Raises
    ------
    EmbeddingError
        Two forces sum images of the region.
    """
    if isinstance(model.charge_module(), NoCharges):
        return None
    found = []
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce) and force.getNonbondedMethod() in LONG_RANGE:
            parameters = [force.getParticleParameters(i)[0] for i in atoms]
            charges = [charge.value_in_unit(unit.elementary_charge) for charge in parameters]
            if any(charges):
                found.append(charges)
    if len(found) > 1:
        raise EmbeddingError(
            f"{len(found)} NonbondedForces of the system sum the periodic images of the region's charges: "
            "merge them into one"
        )
    return found[0] if found else None


def is_periodic(system: openmm.System) -> bool:
    """Whether atoms interact with periodic images, by the pair forces where there are any.

    A restraint may ask for periodic distances in a system that has no box of its own.
    """
    forces = system.getForces()
    pair = [f for f in forces if isinstance(f, (openmm.NonbondedForce, openmm.CustomNonbondedForce))]
    return any(force.usesPeriodicBoundaryConditions() for force in pair or forces)


def join_molecules(system: openmm.System, region: Region) -> None:
    """Add bonds of zero strength along the region's covalent bonds, see `connectivity_force`."""
    system.addForce(connectivity_force(region.bonds, is_periodic(system)))


def check_nonbonded(force: openmm.NonbondedForce, atoms: list[int]) -> None:
    """Raise EmbeddingError for a cutoff of electrostatics, or parameters of ``atoms`` that change."""
    if force.getNonbondedMethod() == openmm.NonbondedForce.CutoffPeriodic:
        raise EmbeddingError(
            "the force field cuts electrostatics off (CutoffPeriodic) while latent charges interact with "
            "all their images; create the MM system with nonbondedMethod=PME (or NoCutoff, isolated)"
        )
    chosen = set(atoms)
    for k in range(force.getNumParticleParameterOffsets()):
        name, atom = force.getParticleParameterOffset(k)[:2]
        if atom in chosen:
            raise EmbeddingError(
                f"the force field's parameters of ML atom {atom} depend on the global parameter {name!r}; "
                "leave parameter offsets to MM atoms"
            )
    for k in range(force.getNumExceptionParameterOffsets()):
        name, exception = force.getExceptionParameterOffset(k)[:2]
        if set(force.getExceptionParameters(exception)[:2]) <= chosen:
            raise EmbeddingError(
                f"the force field's exceptions of ML atoms depend on the global parameter {name!r}, which "
                "would bring back what the model replaces; leave parameter offsets to MM atoms"
            )


def check_separable(force: ElementTree.Element) -> None:
    """Raise EmbeddingError for a force, as XML, that has no terms of its own for the region."""
    kind = force.get("type", "")
    if _INSEPARABLE.fullmatch(kind):
        raise EmbeddingError(
            f"{kind} cannot be split into the ML region and the rest; use a force field without it"
        )


def split_terms(force: ElementTree.Element, chosen: set[int]) -> ElementTree.Element | None:
    """Take the terms within the ``chosen`` atoms out of a bonded force, as XML; returns them.

    None where the force has no such terms.
    """
    kind = force.get("type", "")
    if kind not in _BONDED:
        return None
    within = copy.deepcopy(force)
    found = 0
    for name in ("Bonds", "Angles", "Torsions"):
        terms, others = force.find(name), within.find(name)
        if terms is None or others is None:
            continue
        others[:] = [term for term in others if _inside(term, chosen)]
        terms[:] = [term for term in terms if not _inside(term, chosen)]
        found += len(others)
        logger.info("%s: %d terms within the ML region removed", kind, len(others))
    parameters = {item.get("name") for item in force.findall("./GlobalParameters/Parameter")}
    if found and parameters - {"pi"}:  # a constant of CHARMM's impropers
        warnings.warn(
            f"{found} terms of a {kind} within the ML region are taken for the force field's and removed or "
            "faded; a bias or restraint on it must be added to the system that comes back",
            stacklevel=4,
        )
    return within if found else None


def _inside(term: ElementTree.Element, chosen: set[int]) -> bool:
    """Whether all particles of a term are chosen; OpenMM names them p1, p2 … or a1 … b4 (CMAP)."""
    particles = [value for key, value in term.items() if re.fullmatch(r"[pab]\d+", key)]
    return all(int(value) in chosen for value in particles)


__all__ = [
    "LONG_RANGE",
    "check_nonbonded",
    "check_separable",
    "exclude_pairs",
    "images_of_region",
    "is_periodic",
    "join_molecules",
    "remove_internal_terms",
    "split_terms",
]
