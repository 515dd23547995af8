"""`CFG`: every configuration key with its published default (the EDKD tree's; docs/divergences.md on mdistiller's).

A method of one's own registers its hyperparameters here, as in mdistiller:

    CFG.MYKD = CN()
    CFG.MYKD.T = 4.0
"""

from __future__ import annotations

from edkd.engine.node import Node

CN = Node
CFG = CN()

# ------------------------------------------------------------------------------------------------------ the experiment
CFG.EXPERIMENT = CN()
CFG.EXPERIMENT.PROJECT = "distill"
CFG.EXPERIMENT.NAME = ""  # directory of the run; empty: TAG
CFG.EXPERIMENT.TAG = "default"

CFG.DATASET = CN()
CFG.DATASET.TYPE = "cifar100"  # or tiny_imagenet, imagenet, or an image folder of one's own (train/, val/ or test/)
CFG.DATASET.IMAGE_SIZE = 32  # of one's own images, which get the networks for that size: 32, 64 or 224
CFG.DATASET.NUM_WORKERS = 2  # processes that decode ImageNet; the other sets live on the training device
CFG.DATASET.TEST = CN()
CFG.DATASET.TEST.BATCH_SIZE = 64

CFG.DISTILLER = CN()
CFG.DISTILLER.TYPE = "NONE"  # a name of edkd.distillers.distiller_dict or FILE.py:CLASS; NONE trains without a teacher
CFG.DISTILLER.TEACHER = ""
CFG.DISTILLER.STUDENT = ""
CFG.DISTILLER.TEACHER_CKPT = ""  # a checkpoint file of the teacher, in place of those that are looked for
CFG.DISTILLER.one_or_several("TEACHER", "TEACHER_CKPT")  # several teachers: a list of each

CFG.SOLVER = CN()
CFG.SOLVER.TRAINER = "base"  # or crd, dot, crd_dot; aug (ours, base_aug) or crd_aug for weak and strong image pairs
CFG.SOLVER.BATCH_SIZE = 64
CFG.SOLVER.EPOCHS = 10
CFG.SOLVER.LR = 0.05
CFG.SOLVER.LR_DECAY_STAGES = [150, 180, 210]  # the learning rate drops after these epochs
CFG.SOLVER.LR_DECAY_RATE = 0.1
CFG.SOLVER.WEIGHT_DECAY = 0.0001
CFG.SOLVER.MOMENTUM = 0.9
CFG.SOLVER.TYPE = "SGD"
CFG.SOLVER.DOT = CN()
CFG.SOLVER.DOT.DELTA = 0.075  # momentum that DOT moves from the task's to the distillation's gradient

CFG.LOG = CN()
CFG.LOG.TENSORBOARD_FREQ = 500  # nothing reads it, as in the published code: an epoch is what is logged
CFG.LOG.SAVE_CHECKPOINT_FREQ = 40  # epochs between the checkpoints that are kept
CFG.LOG.PREFIX = "./output"  # the published tree has a directory of its authors' machine here
CFG.LOG.WANDB = True  # where the package and an account are there

# Declared, accepted, and without effect: as published
WITHOUT_EFFECT = ("LOG.TENSORBOARD_FREQ",)

# ---------------------------------------------------------------------------------------------------------- distillers
# KD
CFG.KD = CN()
CFG.KD.TEMPERATURE = 4.0
CFG.KD.LOSS = CN()
CFG.KD.LOSS.CE_WEIGHT = 0.1
CFG.KD.LOSS.KD_WEIGHT = 0.9

# DKD; mdistiller's default for BETA is 8, which its own files here state
CFG.DKD = CN()
CFG.DKD.CE_WEIGHT = 1.0
CFG.DKD.ALPHA = 1.0
CFG.DKD.BETA = 10.0
CFG.DKD.T = 4.0
CFG.DKD.WARMUP = 20

# EDKD
CFG.EDKD = CN()
CFG.EDKD.CE_WEIGHT = 1.0
CFG.EDKD.ALPHA = 1.0  # read with FORM config only, as BETA
CFG.EDKD.BETA = 10.0
CFG.EDKD.T = 4.0
CFG.EDKD.WARMUP = 20
CFG.EDKD.FORM = "code"  # or per_sample, config: see edkd/distillers/EDKD.py

# AT
CFG.AT = CN()
CFG.AT.P = 2
CFG.AT.LOSS = CN()
CFG.AT.LOSS.CE_WEIGHT = 1.0
CFG.AT.LOSS.FEAT_WEIGHT = 1000.0

# RKD
CFG.RKD = CN()
CFG.RKD.DISTANCE_WEIGHT = 25.0
CFG.RKD.ANGLE_WEIGHT = 50.0
CFG.RKD.LOSS = CN()
CFG.RKD.LOSS.CE_WEIGHT = 1.0
CFG.RKD.LOSS.FEAT_WEIGHT = 1.0
CFG.RKD.PDIST = CN()
CFG.RKD.PDIST.EPSILON = 1e-12
CFG.RKD.PDIST.SQUARED = False

# FitNet
CFG.FITNET = CN()
CFG.FITNET.HINT_LAYER = 2
CFG.FITNET.INPUT_SIZE = [32, 32]
CFG.FITNET.LOSS = CN()
CFG.FITNET.LOSS.CE_WEIGHT = 1.0
CFG.FITNET.LOSS.FEAT_WEIGHT = 100.0
CFG.FITNET.PROBE_IN_TRAIN_MODE = True  # as published; False leaves the batch-norm statistics alone

# KDSVD
CFG.KDSVD = CN()
CFG.KDSVD.K = 1
CFG.KDSVD.LOSS = CN()
CFG.KDSVD.LOSS.CE_WEIGHT = 1.0
CFG.KDSVD.LOSS.FEAT_WEIGHT = 1.0

# OFD
CFG.OFD = CN()
CFG.OFD.LOSS = CN()
CFG.OFD.LOSS.CE_WEIGHT = 1.0
CFG.OFD.LOSS.FEAT_WEIGHT = 0.001
CFG.OFD.CONNECTOR = CN()
CFG.OFD.CONNECTOR.KERNEL_SIZE = 1
CFG.OFD.TEACHER_IN_TRAIN_MODE = True  # as published; False evaluates the teacher as every other method does

# NST
CFG.NST = CN()
CFG.NST.LOSS = CN()
CFG.NST.LOSS.CE_WEIGHT = 1.0
CFG.NST.LOSS.FEAT_WEIGHT = 50.0

# PKT
CFG.PKT = CN()
CFG.PKT.LOSS = CN()
CFG.PKT.LOSS.CE_WEIGHT = 1.0
CFG.PKT.LOSS.FEAT_WEIGHT = 30000.0

# SP
CFG.SP = CN()
CFG.SP.LOSS = CN()
CFG.SP.LOSS.CE_WEIGHT = 1.0
CFG.SP.LOSS.FEAT_WEIGHT = 3000.0

# VID
CFG.VID = CN()
CFG.VID.LOSS = CN()
CFG.VID.LOSS.CE_WEIGHT = 1.0
CFG.VID.LOSS.FEAT_WEIGHT = 1.0
CFG.VID.EPS = 1e-5
CFG.VID.INIT_PRED_VAR = 5.0
CFG.VID.INPUT_SIZE = [32, 32]
CFG.VID.PROBE_IN_TRAIN_MODE = True  # as for FitNet
CFG.VID.LEARN_SCALES = False  # True trains the variances, as the paper means and the published code does not

# CRD
CFG.CRD = CN()
CFG.CRD.MODE = "exact"  # the positive is the sample itself; relax: any sample of its class
CFG.CRD.FEAT = CN()
CFG.CRD.FEAT.DIM = 128
CFG.CRD.FEAT.STUDENT_DIM = 256
CFG.CRD.FEAT.TEACHER_DIM = 256
CFG.CRD.LOSS = CN()
CFG.CRD.LOSS.CE_WEIGHT = 1.0
CFG.CRD.LOSS.FEAT_WEIGHT = 0.8
CFG.CRD.NCE = CN()
CFG.CRD.NCE.K = 16384
CFG.CRD.NCE.MOMENTUM = 0.5
CFG.CRD.NCE.TEMPERATURE = 0.07

# ReviewKD
CFG.REVIEWKD = CN()
CFG.REVIEWKD.CE_WEIGHT = 1.0
CFG.REVIEWKD.REVIEWKD_WEIGHT = 1.0
CFG.REVIEWKD.WARMUP_EPOCHS = 20
CFG.REVIEWKD.SHAPES = [1, 8, 16, 32]
CFG.REVIEWKD.OUT_SHAPES = [1, 8, 16, 32]
CFG.REVIEWKD.IN_CHANNELS = [64, 128, 256, 256]
CFG.REVIEWKD.OUT_CHANNELS = [64, 128, 256, 256]
CFG.REVIEWKD.MAX_MID_CHANNEL = 512  # read with LIMIT_MID_CHANNEL only
CFG.REVIEWKD.LIMIT_MID_CHANNEL = False  # as published, where the limit is a literal 512
CFG.REVIEWKD.STU_PREACT = False
