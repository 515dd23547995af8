"""CIFAR's pickles name what the published files need, and nothing else."""

import io
import pickle
import re
import shutil
import struct

import numpy as np
import pytest

from common.data import load_dataset
from common.data.cifar import _ALLOWED, _unpickle
from common.errors import UserError

IMAGES = np.arange(12, dtype=np.uint8).reshape(2, 6)

# module and name of what is refused
OTHERS = [
    ("numpy.f2py.crackfortran", "crackfortran"),
    ("numpy.f2py", "main"),
    ("numpy.f2py.diagnose", "run_command"),
    ("numpy.testing._private.utils", "runstring"),
    ("numpy.distutils.exec_command", "exec_command"),
    ("numpy", "load"),
    ("numpy", "fromfile"),
    ("numpy", "memmap"),
    ("numpy", "scalar"),
    ("numpy", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.multiarray", "ndarray"),
    ("numpy.core.multiarray", "dtype"),
    ("numpy.f2py", "ndarray"),
    ("numpy.f2py", "dtype"),
    ("numpy.anything", "_reconstruct"),
    ("numpy.core.records", "_reconstruct"),
    ("numpy.ma.core", "_reconstruct"),
    ("numpy.ma.core", "_mareconstruct"),
    ("numpyx", "ndarray"),
    ("_codecs", "decode"),
    ("_codecs", "lookup"),
    ("codecs", "encode"),
    ("builtins", "eval"),
    ("__builtin__", "eval"),
    ("posix", "system"),
    ("os", "system"),
    ("copyreg", "_reconstructor"),
    ("functools", "partial"),
    ("operator", "attrgetter"),
    ("torch", "load"),
]


@pytest.mark.parametrize(("module", "name"), OTHERS)
@pytest.mark.parametrize("protocol", [0, 4])
def test_other_names_are_refused(protocol, module, name, tmp_path):
    if protocol == 0:
        content = f"c{module}\n{name}\n.".encode()
    else:
        words = b"".join(b"\x8c" + struct.pack("B", len(w)) + w.encode() for w in (module, name))
        content = b"\x80\x04" + words + b"\x93."
    with pytest.raises(UserError, match=rf"not a CIFAR file \(it refers to {module}\.{name}\)"):
        _unpickle(tmp_path / "file", content)


@pytest.mark.parametrize("codec", ["rot13", "zlib_codec", "idna", "os", "../x", "utf-8"])
def test_no_codec_is_looked_up(codec, tmp_path):
    content = f"c_codecs\nencode\n(Va\nV{codec}\ntR.".encode()
    with pytest.raises(UserError, match=rf"not a CIFAR file \(it refers to the encoding '{re.escape(codec)}'\)"):
        _unpickle(tmp_path / "file", content)


HOSTILE = {
    "a large array": b"cnumpy\nndarray\n(I1000000000000000\ntR.",
    "an array that begins large": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I1000000000000\ntVb\ntR.",
    "a long name": b"c" + b"a" * 1_000_000 + b"\nb\n.",
    "a persistent name": b"Pabc\n.",
    "an extension": b"\x80\x02\x82\x01.",
    "a long number": b"L" + b"9" * 100_000 + b"L\n.",
    "a frame beyond all": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "text beyond all": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\x00\x00abc.",
    "bytes beyond all": b"\x80\x05\x96\xff\xff\xff\xff\x00\x00\x00\x00abc.",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_no_file_fills_is_one_line(case, tmp_path):
    with pytest.raises(UserError, match=r"is truncated or not a CIFAR file \([^\n]{1,200}\): delete") as refused:
        _unpickle(tmp_path / "file", HOSTILE[case])
    assert "\n" not in str(refused.value)


def test_a_dotted_name_leads_nowhere(tmp_path):
    """Protocol 4 lets names have parts: `ndarray.tofile` writes."""
    content = b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93."
    with pytest.raises(UserError, match=r"it refers to numpy.ndarray.tofile"):
        _unpickle(tmp_path / "file", content)


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_and_bytes_of_every_protocol(protocol, tmp_path):
    content = pickle.dumps(
        {"data": IMAGES, "labels": [0, 1], "batch_label": b"\xff", "f": np.asfortranarray(IMAGES)}, protocol
    )
    found = _unpickle(tmp_path / "file", content)
    assert np.array_equal(found["data"], IMAGES)
    assert np.array_equal(found["f"], IMAGES)
    assert found["labels"] == [0, 1]


ODD = {
    "a label beyond all": ("data_batch_2", "labels", lambda labels: [10**30, *labels[1:]], "one label per image"),
    "a label of text": ("test_batch", "labels", lambda labels: ["cat", *labels[1:]], "one label per image"),
    "a label too many": ("test_batch", "labels", lambda labels: [*labels, 1], "one label per image"),
    "a negative label": ("test_batch", "labels", lambda labels: [-1, *labels[1:]], "a label outside the 10 classes"),
    **{
        f"a class name that is {name!r}": (
            "batches.meta",
            "label_names",
            lambda names, name=name: [*names[:-1], name],
            "a name in 'label_names' is no text",
        )
        for name in ({"name": "cat"}, None, b"cat", 3, ["cat", "dog"], [])
    },
    "class names that are ragged": (
        "batches.meta",
        "label_names",
        lambda names: [["cat"]] * 5 + [["cat", "dog"]] * 5,
        "a name in 'label_names' is no text",
    ),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_values_are_one_line(case, generated_data, tmp_path):
    folder = shutil.copytree(generated_data / "cifar-10-batches-py", tmp_path / "cifar-10-batches-py")
    file, key, change, message = ODD[case]
    content = pickle.loads((folder / file).read_bytes(), encoding="latin1")
    (folder / file).write_bytes(pickle.dumps({**content, key: change(content[key])}))
    with pytest.raises(UserError, match=message) as refused:
        load_dataset("cifar10", tmp_path, download=False)
    assert "\n" not in str(refused.value)


def test_names_as_python_2_wrote_them(tmp_path):
    """The published files: protocol 2, numpy's names of before version 2, and no others."""
    named = []

    class Names(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> object:
            named.append((module, name))
            return _ALLOWED[module, name]

    out = io.BytesIO()
    out.write(b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x03\x85")
    out.write(
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x03abctb."
    )
    assert Names(io.BytesIO(out.getvalue()), encoding="latin1").load().tolist() == [97, 98, 99]
    assert named == list(_ALLOWED)[:3]
    assert _unpickle(tmp_path / "file", out.getvalue()).tolist() == [97, 98, 99]
