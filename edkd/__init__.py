"""Exponential Dynamic Knowledge Distillation (EDKD) on a framework in the manner of mdistiller."""
