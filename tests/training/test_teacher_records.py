"""A teacher's accuracy: known by its run, or measured once and remembered; and of what a log warns."""

import json
import math

import numpy as np
import pytest
import torch

from common.data import Dataset, DeviceLoader, ImageArrays, Normalization
from common.training.checkpoints import save_checkpoint
from common.training.runtime import Runtime
from common.training.teacher_records import SUFFIX, accuracy_of
from common.training.teachers import TeacherCheckpoint

RUNTIME = Runtime(torch.device("cpu"))


def make_network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))


@pytest.fixture(scope="module")
def data() -> Dataset:
    random = np.random.default_rng(0)
    images = ImageArrays(random.integers(0, 256, (20, 2, 2, 3), dtype=np.uint8), random.integers(0, 3, 20))
    return Dataset("toy", images, images, ("a", "b", "c"), "random", "f" * 32)


class Loads:
    """Gives the network of a teacher, and counts how often that was asked for."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, teacher):
        self.count += 1
        network = make_network()
        teacher.load_into(network)
        return network


@pytest.fixture
def teacher(tmp_path):
    save_checkpoint(make_network().state_dict(), tmp_path / "net.pth")
    return TeacherCheckpoint("net", tmp_path / "net.pth", "`train`")


def measure(teacher, load, data, limit=None, report=lambda message: None):
    batches = DeviceLoader(data.test, 5, Normalization((0.5,) * 3, (0.5,) * 3), RUNTIME.device, limit=limit)
    return accuracy_of(teacher, load, data, "test", batches, RUNTIME, report)


def test_it_is_said_before_it_is_measured(teacher, data):
    said, load = [], Loads()
    measure(teacher, lambda each: said.append("loaded") or load(each), data, report=said.append)
    assert said == ["evaluating teacher net on 20 test images (remembered afterwards)", "loaded"]
    measure(teacher, load, data, report=said.append)
    assert len(said) == 2, "what is remembered takes no time"


def test_it_is_measured_once_for_each_dataset_and_number_of_images(teacher, data):
    load = Loads()
    state = torch.random.get_rng_state()
    accuracy = measure(teacher, load, data)
    assert torch.equal(torch.random.get_rng_state(), state), "what is drawn afterwards is the same"
    assert (measure(teacher, load, data), load.count) == (accuracy, 1)
    measure(teacher, load, data, limit=1)
    assert load.count == 2
    content = json.loads(teacher.path.with_name(f"net.pth{SUFFIX}").read_text())
    assert len(content["accuracies"]) == 2


ODD_ACCURACIES = (None, "75", True, [75], -1, 101, 1e300, math.nan, 10**40)


def test_a_file_of_another_checkpoint_or_a_damaged_one_counts_for_nothing(teacher, data):
    load = Loads()
    measure(teacher, load, data)
    file = teacher.path.with_name(f"net.pth{SUFFIX}")
    whole = json.loads(file.read_text())
    odd = [{**whole, "digest": "another"}, {**whole, "accuracies": [1]}]
    odd += [{**whole, "accuracies": dict.fromkeys(whole["accuracies"], value)} for value in ODD_ACCURACIES]
    for text in ("", "[]", '{"digest": 1}', *map(json.dumps, odd)):
        file.write_text(text)
        before = load.count
        measure(teacher, load, data)
        assert load.count == before + 1


def test_where_its_directory_cannot_be_written_it_is_measured_each_time(teacher, data):
    load = Loads()
    teacher.path.with_name(f".net.pth{SUFFIX}.tmp").mkdir()  # stands for a directory that is read-only
    for count in (1, 2):
        measure(teacher, load, data)
        assert load.count == count


def test_what_its_run_says_is_not_measured_unless_that_was_on_other_data(teacher, data):
    load = Loads()
    known = TeacherCheckpoint("net", teacher.path, "`train`", "trained here", data.fingerprint, 71.5)
    assert (measure(known, load, data), load.count) == (71.5, 0)
    measure(TeacherCheckpoint("net", teacher.path, "`train`", "trained here", "others", 71.5), load, data)
    assert load.count == 1


@pytest.mark.parametrize(
    ("trained_on", "words", "warning"),
    [
        (None, None, None),
        ("same", "cifar100, real", None),
        ("other", "cifar10, synthetic", "trained on other data (cifar10, synthetic, fingerprint other) than"),
        ("other", None, "trained on other data (other) than"),
    ],
)
def test_a_teacher_of_other_data_is_warned_of_in_words(teacher, trained_on, words, warning):
    messages = TeacherCheckpoint("net", teacher.path, "`train`", trained_on=trained_on, data=words).messages_on_data(
        "same"
    )
    assert [warning in message for message in messages] == ([True] if warning else [])


@pytest.mark.parametrize(
    ("budget", "student", "warning"),
    [
        (
            (2, 200, 2),
            (200, 200, None),
            "2 of 200 epochs of at most 2 batches only, and the student will be for 200",
        ),
        ((200, 200, 2), (200, 200, None), "of at most 2 batches only"),
        ((30, 240, None), (40, 200, None), "30 of 240 epochs only, and the student will be for 40 of 200"),
        ((48, 240, None), (40, 200, None), None),
        ((2, 200, 2), (2, 200, 2), None),
        ((240, 240, None), (2, 200, 2), None),
    ],
)
def test_a_teacher_trained_less_than_its_student_is_warned_of(teacher, budget, student, warning):
    record = dict(zip(("epochs", "published_epochs", "batches"), budget, strict=True))
    messages = TeacherCheckpoint("net", teacher.path, "`train`", budget=record).messages_on_budget(*student)
    assert [warning in message for message in messages] == ([True] if warning else [])
