"""Coulomb sums of Gaussian charges; torch only, no units of its own, no models, no OpenMM."""

from openmm_les.electrostatics.coupling import ChargeCoupling
from openmm_les.electrostatics.ewald import ewald_energy, ewald_sum
from openmm_les.electrostatics.images import image_sum
from openmm_les.electrostatics.induction import PolarizableMultipoles, polarizability_bound
from openmm_les.electrostatics.isolated import isolated_energy, isolated_sum
from openmm_les.electrostatics.latent import latent_ewald
from openmm_les.electrostatics.multipole_mesh import MultipoleMesh
from openmm_les.electrostatics.multipole_solver import LatentMultipoles
from openmm_les.electrostatics.multipoles import (
    MultipoleSum,
    ewald_multipole_sum,
    isolated_multipole_sum,
)
from openmm_les.electrostatics.pme import ParticleMesh, pme_sum
from openmm_les.electrostatics.solver import LatentCoulomb

__all__ = [
    "ChargeCoupling",
    "LatentCoulomb",
    "LatentMultipoles",
    "MultipoleMesh",
    "MultipoleSum",
    "ParticleMesh",
    "PolarizableMultipoles",
    "ewald_energy",
    "ewald_multipole_sum",
    "ewald_sum",
    "image_sum",
    "isolated_energy",
    "isolated_multipole_sum",
    "isolated_sum",
    "latent_ewald",
    "polarizability_bound",
    "pme_sum",
]
