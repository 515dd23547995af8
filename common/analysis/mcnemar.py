"""Whether two networks differ, on the same test images (McNemar, 1947; for classifiers: Dietterich, 1998)."""

from __future__ import annotations

import dataclasses
import math

from scipy.special import bdtr
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class McNemar:
    """The images by who is right, and the exact test of whether the two accuracies differ.

    Only images that one network alone gets right speak about the difference; were both equally good, each would be
    a fair coin. The test is of these two networks and says nothing of how much other seeds would move them.

    Attributes:
        both, only_a, only_b, neither: images that these get right.
        p: how often chance alone would divide the images that one alone gets right as unevenly, two-sided.
    """

    both: int
    only_a: int
    only_b: int
    neither: int

    @classmethod
    def of(cls, a: Tensor, b: Tensor, targets: Tensor) -> McNemar:
        """From the logits of both, [N, K], and the labels, [N]."""
        right_a, right_b = (logits.argmax(1) == targets for logits in (a, b))
        pairs = (right_a & right_b, right_a & ~right_b, ~right_a & right_b, ~(right_a | right_b))
        return cls(*(int(pair.sum()) for pair in pairs))

    @property
    def images(self) -> int:
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def difference(self) -> float:
        """Accuracy of B minus that of A, in points."""
        return 100 * (self.only_b - self.only_a) / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the difference, by Wald (its variance is that of paired shares)."""
        n, b, c = self.images, self.only_a, self.only_b
        error = 100 * math.sqrt(max(0.0, b + c - (b - c) ** 2 / n)) / n
        return self.difference - 1.959964 * error, self.difference + 1.959964 * error

    @property
    def p(self) -> float:
        """By the binomial distribution with probability 1/2, so that it holds for few images too."""
        unequal = self.only_a + self.only_b
        return min(1.0, 2 * float(bdtr(min(self.only_a, self.only_b), unequal, 0.5)))
