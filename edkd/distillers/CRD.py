"""CRD: "Contrastive Representation Distillation" (Tian, Krishnan, Isola, ICLR 2020)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._base import Distiller

EPSILON = 1e-7


def nce_loss(scores: Tensor, num_data: int) -> Tensor:
    """Noise-contrastive estimation (eq. 15 to 18): -(log h(positive) + sum log (1 - h(negative))), a sample.

    h = x / (x + m / M), m negatives, M = `num_data` samples in the dataset.

    Args:
        scores: x, normalized, the positive first, [N, 1 + m].
    """
    noise = (scores.shape[1] - 1) / num_data
    positive, negatives = scores[:, 0], scores[:, 1:]
    log_h = (positive / (positive + noise + EPSILON)).log().sum()
    log_not_h = (noise / (negatives + noise + EPSILON)).log().sum()
    return -(log_h + log_not_h) / len(scores)


class Embed(nn.Module):
    """A linear map onto the unit sphere: [N, D] -> [N, E]."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim_in, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.linear(x.flatten(1)))


class ContrastMemory(nn.Module):
    """The latest embedding of every training sample by both networks, and scores against them.

    Args:
        dim: of the embeddings.
        num_data: training samples.
        k: negatives; only stated in `params`.
        temperature: tau.
        momentum: of the memories.
    """

    params: Tensor
    memory_v1: Tensor
    memory_v2: Tensor

    def __init__(self, dim: int, num_data: int, k: int, temperature: float, momentum: float) -> None:
        super().__init__()
        self.temperature, self.momentum, self.num_data = temperature, momentum, num_data
        # K, T, Z of the student, Z of the teacher, momentum; a Z below 0 is not set yet
        self.register_buffer("params", torch.tensor([k, temperature, -1.0, -1.0, momentum]))
        bound = 1.0 / math.sqrt(dim / 3)
        self.register_buffer("memory_v1", torch.empty(num_data, dim).uniform_(-bound, bound))
        self.register_buffer("memory_v2", torch.empty(num_data, dim).uniform_(-bound, bound))

    def forward(self, v1: Tensor, v2: Tensor, index: Tensor, contrastive_index: Tensor) -> tuple[Tensor, Tensor]:
        """Scores x = exp(v . memory / tau) / Z; the memories take in `v1` and `v2` afterwards.

        Args:
            v1, v2: embeddings of student and teacher, [N, dim].
            index: of the samples in the dataset, [N].
            contrastive_index: of what each is compared with, itself first, [N, 1 + K].

        Returns:
            Scores of the student's and of the teacher's embeddings, each against the other's memory, [N, 1 + K].
        """
        scores_1, scores_2 = (
            (torch.bmm(memory[contrastive_index], v[:, :, None])[:, :, 0] / self.temperature).exp()
            for memory, v in ((self.memory_v2, v1), (self.memory_v1, v2))
        )
        with torch.no_grad():
            for position, scores in ((2, scores_1), (3, scores_2)):
                z = self.params[position]
                # the first batch sets Z for good
                self.params[position] = torch.where(z < 0, scores.detach().mean().to(z) * self.num_data, z)
        scores_1, scores_2 = scores_1 / self.params[2].clone(), scores_2 / self.params[3].clone()
        with torch.no_grad():
            for memory, v in ((self.memory_v1, v1), (self.memory_v2, v2)):
                mixed = self.momentum * memory[index] + (1 - self.momentum) * v.to(memory)
                memory.index_copy_(0, index, F.normalize(mixed))
        return scores_1, scores_2


class CRD(Distiller):
    """Cross-entropy and `nce_loss` in both directions; the trainers `crd` and `crd_dot` draw the negatives."""

    graph_capturable = True
    channels_last = True
    epoch_dependent_until = 0

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any, num_data: int) -> None:
        super().__init__(student, teacher)
        self.num_data = num_data
        self.ce_loss_weight = cfg.CRD.LOSS.CE_WEIGHT
        self.feat_loss_weight = cfg.CRD.LOSS.FEAT_WEIGHT
        dim, nce = cfg.CRD.FEAT.DIM, cfg.CRD.NCE
        self.embed_s = Embed(cfg.CRD.FEAT.STUDENT_DIM, dim)
        self.embed_t = Embed(cfg.CRD.FEAT.TEACHER_DIM, dim)
        self.contrast = ContrastMemory(dim, num_data, nce.K, nce.TEMPERATURE, nce.MOMENTUM)

    def get_learnable_parameters(self) -> list[nn.Parameter]:
        embeddings = [*self.embed_s.parameters(), *self.embed_t.parameters()]
        return super().get_learnable_parameters() + embeddings

    def get_extra_parameters(self) -> int:
        parts = (self.embed_s, self.embed_t, self.contrast)
        return sum(t.numel() for part in parts for t in part.state_dict().values())

    def forward_train(
        self, image: Tensor, target: Tensor, index: Tensor, contrastive_index: Tensor, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits_student, feature_student = self.student(image)
        _, feature_teacher = self.teacher(image)
        v1, v2 = self.embed_s(feature_student["pooled_feat"]), self.embed_t(feature_teacher["pooled_feat"])
        scores = self.contrast(v1, v2, index, contrastive_index)
        return logits_student, {
            "loss_ce": self.ce_loss_weight * F.cross_entropy(logits_student, target),
            "loss_kd": self.feat_loss_weight * sum(nce_loss(x, self.num_data) for x in scores),
        }
