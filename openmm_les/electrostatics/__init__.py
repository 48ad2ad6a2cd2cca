"""Coulomb sums of Gaussian charges; torch only, no units of its own, no models, no OpenMM."""

from openmm_les.electrostatics.coupling import ChargeCoupling
from openmm_les.electrostatics.ewald import ewald_energy, ewald_sum
from openmm_les.electrostatics.images import image_sum
from openmm_les.electrostatics.isolated import isolated_energy, isolated_sum
from openmm_les.electrostatics.pme import ParticleMesh, pme_sum
from openmm_les.electrostatics.solver import LatentCoulomb, latent_ewald

__all__ = [
    "ChargeCoupling",
    "LatentCoulomb",
    "ParticleMesh",
    "ewald_energy",
    "ewald_sum",
    "image_sum",
    "isolated_energy",
    "isolated_sum",
    "latent_ewald",
    "pme_sum",
]
