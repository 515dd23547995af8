"""Stands for a paper's script in tests of the runner: writes a `run.json` and does what its `params.json` says."""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

parser = argparse.ArgumentParser()
for flag in ("--model_dir", "--seed", "--epochs", "--data-dir", "--val-fraction", "--stop-after"):
    parser.add_argument(flag)
parser.add_argument("--no-test", action="store_true")
parser.add_argument("--check-settings", action="store_true")
parser.add_argument("--resume", action="store_true")
parser.add_argument("--overwrite", action="store_true")
parser.add_argument("--smooth", action="store_true")
args = parser.parse_args()

directory = Path(args.model_dir)
params = json.loads((directory / "params.json").read_text())
if args.check_settings:
    sys.exit(f"error: {directory}/params.json: alpha is negative" if params.get("alpha", 0) < 0 else 0)
output = directory / "smooth" if args.smooth else directory
output.mkdir(exist_ok=True)
(output / "pid.txt").write_text(str(os.getpid()))
with open(output / "calls.txt", "a") as calls:
    calls.write(f"{os.environ['OMP_NUM_THREADS']}\n")
record = {
    "paper": "stub",
    "experiment": str(directory.relative_to("experiments")) + (" --smooth" if args.smooth else ""),
    "command": ["stub_main.py", *sys.argv[1:]],
    "settings": {"seed": int(args.seed), "batch_size": params["batch_size"], "method": "Stub"},
    "runtime": {"device": "cpu", "amp": "off"},
    "data": {"content": "synthetic dataset", "fingerprint": "f" * 32},
    "budget": {"epochs": int(args.epochs), "published_epochs": 200, "batches": None},
    "commit": "abc",
    "hardware": {"cpu": "test", "gpu": None},
    "started": "2026-01-01T00:00:00+00:00",
}


def write(status: str) -> None:
    alpha = params.get("alpha", 0)  # what helps on the validation split harms on the test split
    figures = {"best": 12.5, "last": 11.25 + int(args.seed) - alpha}
    if args.no_test:
        done = int(args.stop_after or args.epochs)
        last = [50.0 + alpha - (params.get("late", 0) if epoch == int(args.epochs) - 1 else 0) for epoch in range(done)]
        lines = [json.dumps({"epoch": epoch, "validation/accuracy": value}) for epoch, value in enumerate(last)]
        (output / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
        figures = {"best": 50.0, "last": last[-1], "best_epoch": 0, "best_loss": 1.0}
        content = {"accuracy": None, "validation": figures, "epochs_done": done}
    else:
        analysis = {"test": {"last": {"fidelity": {"teacher": {"agreement": 80.0 + alpha}}}}}
        content = {"accuracy": figures, "analysis": analysis}
    (output / "run.json").write_text(json.dumps({**record, "status": status, **content}))


def stop(number: int, frame: object) -> None:
    write("stopped")
    sys.exit(130)


signal.signal(signal.SIGTERM, stop)
write("running")
print("working", flush=True)
if (directory / "network.pth.tar").exists():
    print("resuming")
(directory / "network.pth.tar").touch()
if "teacher" in params and not (Path("experiments") / params["teacher"] / "network.pth.tar").is_file():
    sys.exit("error: no teacher")
if params.get("deaf"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("deaf to signals", flush=True)
time.sleep(params.get("sleep", 0))
while "until" in params and not Path(params["until"]).exists():
    time.sleep(0.02)
if len((output / "calls.txt").read_text().splitlines()) <= params.get("killed", 0):
    os.kill(os.getpid(), signal.SIGKILL)
if params.get("fails"):
    print("error: it went wrong", flush=True)
    sys.exit(2)
write("stopped" if args.stop_after and int(args.stop_after) < int(args.epochs) else "done")
print("test accuracy: 12.50")
