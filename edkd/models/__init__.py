"""Networks under the names by which files written for mdistiller import and build them."""

from edkd.models.tables import cifar_model_dict, imagenet_model_dict, tiny_imagenet_model_dict

__all__ = ["cifar_model_dict", "imagenet_model_dict", "tiny_imagenet_model_dict"]
