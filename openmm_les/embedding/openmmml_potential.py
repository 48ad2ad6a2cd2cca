"""LES models as potentials of openmm-ml (1.7 and 1.8); the only module that imports it.

`MLPotential("les", modelPath=…).createMixedSystem(…)` gives the energies of `create_mixed_system`
on both: 1.8 hands the whole task over, 1.7 builds its own mechanical system, from which the images
of the region's charges are then taken out as well.

Constraints within the region go, as openmm-ml has it by default. Its ``removeConstraints=False`` keeps them
in 1.7; in 1.8 it keeps those of interpolating systems, which we leave in, and does nothing for others.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import openmm
from openmm import app
from openmmml.mlpotential import MLPotentialImpl

from openmm_les.embedding.field import add_field_on_charges
from openmm_les.embedding.mechanical import exclude_pairs, images_of_region, is_periodic, join_molecules
from openmm_les.embedding.mixed import EMBEDDINGS, create_mixed_system
from openmm_les.embedding.openmmml_entry import PREFIX
from openmm_les.embedding.regions import bond_terms, find_region
from openmm_les.engine.boundary import LAMBDA_INTERPOLATE
from openmm_les.engine.connectivity import connectivity_force, pairs_of_molecules
from openmm_les.engine.field import field_parameters, refuse_derivatives
from openmm_les.engine.force import make_force
from openmm_les.engine.topology import atomic_numbers, bonds_among, molecules_and_charges, topology_bonds
from openmm_les.exceptions import EmbeddingError
from openmm_les.models.checkpoint import load_model
from openmm_les.models.heads import NoCharges
from openmm_les.models.model import LESModel

# Since 1.8 openmm-ml asks whether a model has images of its own, and takes the force field's out.
_EMBEDS = hasattr(MLPotentialImpl, "getMLLongRange")
_OPTIONS = ("route", "precision", "device", "total_charge", "coupling", "electric_field")
# Of openmm-ml itself: they reach every potential and mean nothing to this one.
_IGNORED = ("mlLongRange", "linkAtomDistances")


class LESPotentialImpl(MLPotentialImpl):
    """A LES model behind openmm-ml's interface.

    Arguments of ``createSystem`` and ``createMixedSystem`` (or of ``MLPotential``, as defaults):
    ``route``, ``precision``, ``device``, ``total_charge``, ``electric_field`` (V/nm) as in `create_system`
    and `create_mixed_system`, with electrostatic embedding ``coupling``.
    """

    def __init__(self, model: LESModel, **defaults: Any) -> None:
        super().__init__()
        self.model = model
        self.defaults = _checked(defaults)

    @classmethod
    def from_name(
        cls,
        name: str,
        modelPath: str | None = None,
        head: str | None = None,
        electrostatics: str = "stored",
        **defaults: Any,
    ) -> LESPotentialImpl:
        """For ``MLPotential("les", modelPath=path)`` or ``MLPotential("les-…")``.

        ``head`` and ``electrostatics`` as in `load_model`.

        Raises
        ------
        ValueError
            "les" without ``modelPath``.
        CheckpointError
            No such model.
        """
        if name != PREFIX and modelPath is None:
            modelPath = name.removeprefix(f"{PREFIX}-")
        if modelPath is None:
            raise ValueError(f"MLPotential({PREFIX!r}) needs `modelPath`, a file or a shipped model's name")
        return cls(load_model(modelPath, head=head, electrostatics=electrostatics), **defaults)

    def addForces(
        self,
        topology: app.Topology,
        system: openmm.System,
        atoms: Iterable[int] | None,
        forceGroup: int,
        **args: Any,
    ) -> None:
        """Add the ML force; called by openmm-ml.

        There is no ``lambda_interpolate`` in it: where openmm-ml interpolates, it scales the force. With an
        electric field there is a force for it on the charges of ``system``, too, and its derivatives are NaN.
        """
        options = {**self.defaults, **_checked(args)}
        total_charge = options.pop("total_charge", None)
        options.pop("coupling", None)  # with MM charges: this is mechanical embedding, or none
        electric_field = options.get("electric_field")
        periodic = topology.getPeriodicBoxVectors() is not None
        if atoms is None:
            numbers = atomic_numbers(topology)
            whole = molecules_and_charges(topology, numbers, 0 if total_charge is None else total_charge)
            described: tuple[Sequence[Any], ...] = (numbers, *whole)
            chosen, bonds, bare = None, topology_bonds(topology), False
            if periodic:
                system.addForce(connectivity_force(pairs_of_molecules(whole[0]), periodic=True))
        else:
            # While interpolating, openmm-ml collects the forces in a System without particles.
            bare = system.getNumParticles() == 0
            if bare and not _EMBEDS and periodic:
                raise EmbeddingError(
                    "openmm-ml 1.7 cannot interpolate a model with long-range electrostatics in a periodic "
                    "system; use openmm-ml 1.8, or openmm_les.create_mixed_system and its "
                    "lambda_interpolate"
                )
            if bare and not _EMBEDS and electric_field is not None:
                raise EmbeddingError(
                    "openmm-ml 1.7 cannot interpolate a system in an electric field: it does not show us "
                    "the MM charges; use openmm-ml 1.8, or openmm_les.create_mixed_system"
                )
            region = find_region(
                topology, _particles(topology) if bare else system, atoms, self.model, total_charge
            )
            described = (region.numbers, region.molecules, region.molecule_charges)
            chosen, bonds = region.atoms, bonds_among(region.bonds, region.atoms)
            if not bare:
                periodic = is_periodic(system)
                if not _EMBEDS:
                    exclude_pairs(system, region.atoms)
                    options["image_charges"] = images_of_region(system, region.atoms, self.model)
                join_molecules(system, region)
                if electric_field is not None:
                    add_field_on_charges(system, system, region, electric_field)
        force = make_force(
            self.model,
            *described,
            atoms=chosen,
            periodic=periodic,
            scalable=False,
            force_group=forceGroup,
            bonds=bonds,
            **options,
        )
        system.addForce(force)
        if electric_field is not None and not bare:
            system.addForce(refuse_derivatives(field_parameters(electric_field)))

    def getMLLongRange(self) -> bool:
        """Whether there are latent charges, which have periodic images (asked by openmm-ml 1.8)."""
        return not isinstance(self.model.charge_module(), NoCharges)

    def getSupportedEmbeddings(self) -> list[str]:
        """Embeddings that `createMixedSystem` makes itself (asked by openmm-ml 1.8)."""
        return list(EMBEDDINGS)

    def createMixedSystem(
        self,
        topology: app.Topology,
        system: openmm.System,
        atoms: list[int],
        forceGroup: int,
        interpolate: bool,
        embedding: str,
        returnInfo: bool = False,
        **args: Any,
    ) -> openmm.System:
        """`create_mixed_system`, called by openmm-ml 1.8.

        Interpolation of mechanical embedding is left to openmm-ml's own.
        """
        options = {**self.defaults, **_checked(args)}
        if interpolate:
            _warn_of_constraints(system, set(atoms))
        if interpolate and embedding == "mechanical":
            from openmmml.embeddings.mechanicalembedding import MechanicalEmbedding

            periodic = is_periodic(system)
            if periodic != (topology.getPeriodicBoxVectors() is not None):
                raise EmbeddingError(
                    f"`system` is {'' if periodic else 'not '}periodic, `topology` is"
                    f"{' not' if periodic else ''}; openmm-ml goes by the topology while it interpolates: "
                    "give it the box of the system (topology.setPeriodicBoxVectors)"
                )
            region = find_region(topology, system, atoms, self.model, options.get("total_charge"))
            options["total_charge"] = region.molecule_charges
            mixed = MechanicalEmbedding().createMixedSystem(
                self, topology, system, region.atoms, forceGroup, True, **options
            )
            join_molecules(mixed, region)
            electric_field = options.get("electric_field")
            if electric_field is not None:
                add_field_on_charges(mixed, system, region, electric_field, interpolate=True)
                refused = {**field_parameters(electric_field), LAMBDA_INTERPOLATE: 1.0}
                mixed.addForce(refuse_derivatives(refused))
            return mixed
        return create_mixed_system(
            topology,
            system,
            atoms,
            self.model,
            embedding,
            scalable=embedding == "electrostatic",
            force_group=forceGroup,
            interpolate=interpolate,
            **options,
        )


def _warn_of_constraints(system: openmm.System, atoms: set[int]) -> None:
    """Say what openmm-ml does afterwards to bonds that nothing but a constraint holds."""
    bonded = {pair for pair in bond_terms(system) if set(pair) <= atoms}
    constrained = (system.getConstraintParameters(k)[:2] for k in range(system.getNumConstraints()))
    alone = [pair for pair in constrained if set(pair) <= atoms and tuple(sorted(pair)) not in bonded]
    if alone:
        warnings.warn(
            f"{len(alone)} bonds of the ML region are constraints without a bond term, and openmm-ml removes "
            "the constraints unless createMixedSystem is given removeConstraints=False: below "
            "lambda_interpolate = 1 nothing would hold these atoms together (flexibleConstraints=True of the "
            "force field adds terms)",
            stacklevel=4,
        )


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """Our own options among those given; raises TypeError for a name that nobody reads."""
    if "embedding" in options and not _EMBEDS:
        raise EmbeddingError(
            "openmm-ml 1.7 embeds mechanically only; use openmm_les.create_mixed_system for "
            f"embedding={options['embedding']!r}, or openmm-ml 1.8"
        )
    unknown = sorted(set(options) - set(_OPTIONS) - set(_IGNORED))
    if unknown:
        raise TypeError(f"unknown option {', '.join(unknown)}; known are {', '.join(_OPTIONS)}")
    return {name: value for name, value in options.items() if name in _OPTIONS}


def _particles(topology: app.Topology) -> openmm.System:
    """System with the particles of a topology and nothing else."""
    system = openmm.System()
    for _ in range(topology.getNumAtoms()):
        system.addParticle(1.0)
    return system


__all__ = ["LESPotentialImpl"]
