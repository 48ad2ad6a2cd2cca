"""Models: backbone, heads, the LES model and its files."""

from openmm_les.models.checkpoint import list_models, load_model, model_card, save_model
from openmm_les.models.equivariant import EquivariantBackbone
from openmm_les.models.heads import LatentChargeHead
from openmm_les.models.model import Evaluation, LESModel, Prediction

__all__ = [
    "EquivariantBackbone",
    "Evaluation",
    "LESModel",
    "LatentChargeHead",
    "Prediction",
    "list_models",
    "load_model",
    "model_card",
    "save_model",
]
