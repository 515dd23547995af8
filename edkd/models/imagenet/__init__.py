"""Networks for ImageNet."""

from edkd.models.tables import imagenet_model_dict

__all__ = ["imagenet_model_dict"]
