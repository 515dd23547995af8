"""Multi-level knowledge distillation into a ResNetV2-50 with early exits (github.com/coombeben/MLKD)."""
