"""Where trained teachers lie. Edit it: `teacher_model_path_dict["resnet32x4"] = "/my/resnet32x4_best.pth"`.

A path is looked for below `--checkpoint-dir`, in the working directory, in `mtkd_rl/` and in the repository;
`{dataset}` in it stands for `--dataset`. The defaults are where `train_baseline.py` writes by its own defaults.
"""

from common.command_line import shortened
from common.models import list_models

LIGHT_MODELS = ("MobileNetV2", "ShuffleV1", "ShuffleV2")  # always trained at a learning rate of 0.01


def teacher_directory(model: str, dataset: str, lr: float, weight_decay: float, trial: str) -> str:
    """Directory of a teacher's run, below the directory of checkpoints."""
    name = shortened(f"{model}_{dataset}_lr_{lr}_decay_{weight_decay}_trial_{trial}")
    return f"teachers/models/{name}"


def trained_here(model: str) -> str:
    """What `python train_baseline.py --model <model>` leaves."""
    lr = 0.01 if model in LIGHT_MODELS else 0.05
    return f"{teacher_directory(model, '{dataset}', lr, 0.0005, '0')}/{model}_best.pth"


teacher_model_path_dict = {model: trained_here(model) for model in list_models("mtkd_rl")}
