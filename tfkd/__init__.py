"""Teacher-free knowledge distillation (Yuan et al., "Revisiting Knowledge Distillation via Label Smoothing
Regularization", CVPR 2020)."""
