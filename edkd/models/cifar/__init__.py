"""Networks for small images."""

from edkd.models.tables import cifar_model_dict, tiny_imagenet_model_dict

__all__ = ["cifar_model_dict", "tiny_imagenet_model_dict"]
