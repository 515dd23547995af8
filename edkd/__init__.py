"""Exponential Dynamic Knowledge Distillation (EDKD) on a framework in the manner of mdistiller."""

from edkd.aliases import install

install()
