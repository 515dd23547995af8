"""Scripts import what they need and leave the rest to those who ask for it."""

import subprocess
import sys

import pytest

SCRIPTS = {
    "tfkd": ["tfkd.main", "tfkd.evaluate"],
    "edkd": ["edkd.tools.train", "edkd.tools.eval"],
    "mtkd_rl": ["mtkd_rl.train_baseline", "mtkd_rl.train_student_avg", "mtkd_rl.train_student_rl"],
    "mlkd": ["mlkd.train", "mlkd.calibrate", "mlkd.train_teacher"],
}
SLOW = {"torchvision", "timm", "tensorboard", "torch.utils.tensorboard", "torch._dynamo", "torch._inductor"}
WITH_TIMM = {"torchvision", "timm", "torch._dynamo", "torch._inductor"}  # all of which timm imports

ASK_FOR_HELP = """
import contextlib, importlib, sys
for script in sys.argv[1:]:
    sys.argv = [script, "--help"]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(sys.stderr):
        importlib.import_module(script).main()
print(*sys.modules)
"""


@pytest.mark.parametrize("paper", SCRIPTS)
def test_help_imports_nothing_slow(paper):
    ended = subprocess.run(
        [sys.executable, "-c", ASK_FOR_HELP, *SCRIPTS[paper]], capture_output=True, text=True, check=True
    )
    assert ended.stderr.count("usage:") == len(SCRIPTS[paper])
    imported = set(ended.stdout.split())
    assert "torch" in imported
    assert imported & SLOW <= (WITH_TIMM if paper == "mlkd" else set())
