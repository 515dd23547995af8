"""`--check-settings`: each script says what is wrong with its flags and settings, without data and teachers."""

import pytest

RL = ["--arch", "resnet8", "--teacher-name-list", "resnet14", "wrn_16_1"]
KD = ["--cfg", "configs/cifar100/kd/res56_res20.yaml"]
TFKD = ["--model_dir", "experiments/kd_experiments/cnn_distill/cnn_self_teacher/"]
COMMANDS = [
    ("tfkd.main", TFKD, ["--regularization"], "--regularization takes no teacher"),
    ("tfkd.main", [*TFKD, "--self_training"], ["--epochs", "0"], "0 is not a positive number"),
    ("edkd.tools.train", KD, ["KD.TEMPERATURE", "-1"], "KD.TEMPERATURE is -1.0, but must be positive"),
    ("edkd.tools.train", KD, ["DISTILLER.TYPE", "FITNET", "FITNET.HINT_LAYER", "9"], "FITNET.HINT_LAYER is 9"),
    ("mtkd_rl.train_student_rl", RL, ["--kd-T", "0"], "argument --kd-T: 0 is not a positive number"),
    ("mtkd_rl.train_student_avg", RL, ["--teacher-name-list", "resnet15"], "resnet15"),
    ("mtkd_rl.train_baseline", ["--model", "resnet8"], ["--momentum", "1"], "argument --momentum: 1 is not a number"),
    ("mlkd.train", ["--model", "test_resnet", "--checkpoint", "a.pth"], ["--alpha", "2"], "argument --alpha: 2 is not"),
    (
        "mlkd.train_teacher",
        ["--model", "test_resnet", "-n", "a"],
        ["--lr", "0"],
        "argument --lr: 0",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("script", "flags", "wrong", "words"), COMMANDS)
def test_settings_are_checked_without_data_and_teachers(script, flags, wrong, words, call, workspace):
    where = ["--data-dir", "nowhere", "--no-download", "--check-settings"]
    ended = call([*flags, *where], script)
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout == "nothing is wrong with these flags and settings\n"
    ended = call([*flags, *wrong, *where], script)
    assert (ended.code, ended.stdout) == (2, "")
    assert words in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not list(workspace.root.iterdir()), "nothing is written"
