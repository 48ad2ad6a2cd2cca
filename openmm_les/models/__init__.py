"""Models: backbone, heads, the LES model and its files."""

from openmm_les.models.adapters.any_backbone import PairBackbone, add_latent_charges
from openmm_les.models.backbone import BackboneOutput
from openmm_les.models.checkpoint import (
    list_models,
    load_model,
    model_card,
    register_backbone,
    save_model,
)
from openmm_les.models.equilibration import ChargeEquilibration, equilibrate_charges
from openmm_les.models.equivariant import EquivariantBackbone
from openmm_les.models.evaluation import Evaluation
from openmm_les.models.heads import LatentChargeHead
from openmm_les.models.model import LESModel, Prediction
from openmm_les.models.multipole_sources import MultipoleSources, add_multipoles

__all__ = [
    "BackboneOutput",
    "ChargeEquilibration",
    "EquivariantBackbone",
    "Evaluation",
    "LESModel",
    "LatentChargeHead",
    "MultipoleSources",
    "PairBackbone",
    "Prediction",
    "add_latent_charges",
    "add_multipoles",
    "equilibrate_charges",
    "list_models",
    "load_model",
    "model_card",
    "register_backbone",
    "save_model",
]
