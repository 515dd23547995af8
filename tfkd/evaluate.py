"""Evaluate a trained experiment on the test set: `python evaluate.py --model_dir DIR --restore_file best`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any directory, installed or not
    from common.interrupts import stop_in_imports

    stop_in_imports()

from common.command_line import ArgumentParser, cli_main, inner_name, positive_int, settings_from
from common.data import DeviceLoader
from common.data.flags import DataSource, add_data_flags
from common.models.network import require_takes
from common.training.checkpoints import load_weights
from common.training.evaluation import evaluate
from common.training.runs import write_json
from common.training.runtime import TRAINING_ONLY, Runtime, add_runtime_flags, runtime_from
from tfkd.experiment import build_network, load_data, open_experiment, resolve_num_classes, transforms_for


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model_dir", default="experiments/base_model", help="directory with params.json")
    parser.add_argument(
        "--restore_file", type=inner_name, default="best", metavar="NAME", help="evaluate NAME.pth.tar in model_dir"
    )
    parser.add_argument("--num_class", type=positive_int, default=100, help="classes; 100: those of the dataset")
    add_data_flags(parser, training=False)
    add_runtime_flags(parser, without=TRAINING_ONLY)
    return parser.parse_args()


def run(args: argparse.Namespace, runtime: Runtime) -> None:
    model_dir, params = open_experiment(args.model_dir)
    data = load_data(settings_from(DataSource, args), params, args.image_size)
    num_classes = resolve_num_classes(args.num_class, data)
    network = build_network(params.student, params, model_dir / "params.json", num_classes)
    checkpoint = model_dir / f"{args.restore_file}.pth.tar"
    load_weights(network, checkpoint, params.student)
    height, width = data.test.pixels.shape[1:3]
    require_takes(network, params.student, height, width, num_classes)
    network.to(runtime.device)
    normalization, _ = transforms_for(params.dataset)
    batches = DeviceLoader(
        data.test,
        params.batch_size,
        normalization,
        runtime.device,
        rank=runtime.rank,
        world_size=runtime.world_size,
        limit=runtime.limit_eval_batches,
    )
    if runtime.is_main:
        print(f"{params.student} from {checkpoint}")
        print(f"on the {batches.samples} test images of {data.name} ({data.content}):", flush=True)
    figures = evaluate(network, batches, runtime)
    if runtime.is_main:
        write_json(checkpoint.with_name(f"metrics_test_{checkpoint.name.removesuffix('.pth.tar')}.json"), figures)
        print(f"accuracy {figures['accuracy']:.2f}, top-5 {figures['top5']:.2f}, loss {figures['loss']:.4f}")


@cli_main
def main() -> None:
    args = parse_arguments()
    with runtime_from(args) as runtime:
        run(args, runtime)


if __name__ == "__main__":
    main()
