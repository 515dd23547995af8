"""The synthetic dataset: learnable images in the layouts of the real datasets.

    python -m common.data.synthetic DEST [--layout cifar-100] [--train-per-class N] [--test-per-class N] [--seed S]

With it everything can be run on a machine without network, through the same readers as the real data. A picture shows
an object on a textured ground. Classes come in groups of five: a group has its own ground, palette and outline; its
members differ only in how the object is marked, by amounts that overlap between neighbors. So groups are learned
before classes, and what a teacher is unsure about says something. What a class looks like is fixed; the seed draws the
pictures.

The files are a function of the settings, byte for byte. To that end pictures are painted with basic arithmetic only
(no sine, exponential or matrix product, whose last bit depends on the processor), and the CIFAR pickles are written
opcode by opcode. The bytes of JPEGs depend, besides, on the libjpeg inside Pillow.
"""

from __future__ import annotations

from common.data.datasets import MARKER
from common.data.synthetic.layouts import LAYOUTS
from common.data.synthetic.settings import class_groups, class_names
from common.data.synthetic.writing import read_marker, write_generated

__all__ = ["LAYOUTS", "MARKER", "class_groups", "class_names", "read_marker", "write_generated"]
