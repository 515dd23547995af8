"""Distillers by the name that `DISTILLER.TYPE` gives. A new one: its file here, a line in `distiller_dict`, its keys in
`edkd/engine/cfg.py`, a yaml."""

from ._base import Distiller, Vanilla
from .AT import AT
from .CRD import CRD
from .DKD import DKD
from .EDKD import EDKD
from .FitNet import FitNet
from .KD import KD
from .KDSVD import KDSVD
from .NST import NST
from .OFD import OFD
from .PKT import PKT
from .ReviewKD import ReviewKD
from .RKD import RKD
from .SP import SP
from .VID import VID

distiller_dict = {
    "NONE": Vanilla,
    "KD": KD,
    "DKD": DKD,
    "EDKD": EDKD,
    "AT": AT,
    "FITNET": FitNet,
    "RKD": RKD,
    "SP": SP,
    "PKT": PKT,
    "NST": NST,
    "VID": VID,
    "OFD": OFD,
    "CRD": CRD,
    "REVIEWKD": ReviewKD,
    "KDSVD": KDSVD,
}

# written here; every other one comes from somewhere else
OURS = frozenset({Vanilla, KD, DKD, EDKD, AT, FitNet, RKD, SP, PKT, NST, VID, OFD, CRD, ReviewKD, KDSVD})

__all__ = ["OURS", "Distiller", "distiller_dict"]
