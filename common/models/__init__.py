"""Networks by family and published name; one file per architecture."""

from common.models.network import Features, Network
from common.models.registry import FAMILIES, create_model, list_models

__all__ = ["FAMILIES", "Features", "Network", "create_model", "list_models"]
