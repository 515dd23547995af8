"""Multi-Teacher Knowledge Distillation with Reinforcement Learning (MTKD-RL)."""
