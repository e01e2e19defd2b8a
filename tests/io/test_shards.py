"""Folders in Hugging Face's layout: the tensors that were written, one at a time, or a refusal."""

import json
import os
import struct
import tracemalloc

import ml_dtypes
import numpy as np
import pytest

from synthjax.io import shards
from synthjax.io.tensors import ModelError
from synthjax.io.workdir import WorkdirError

CONFIG = {"model_type": "llama"}
FIRST = "model-00001-of-00003.safetensors"
INDEX = "model.safetensors.index.json"


def tensors(dtype=np.float32, size=6):
    rng = np.random.default_rng(0)
    return {f"layers.{i}.weight": rng.normal(size=(size, 2)).astype(dtype) for i in range(5)}


@pytest.fixture
def folder(tmp_path):
    """Five tensors of 48 bytes, two in a shard."""
    shards.write(tmp_path / "model", tensors(), CONFIG, shard_bytes=100)
    return tmp_path / "model"


def read(folder):
    return dict(shards.arrays(shards.tensors_of(folder)))


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("shard_bytes", [1, 100, 10**9])
@pytest.mark.parametrize(
    "dtype, word",
    [(np.float32, "F32"), (np.float16, "F16"), (ml_dtypes.bfloat16, "BF16")],
    ids=["float32", "float16", "bfloat16"],
)
def test_there_and_back(tmp_path, dtype, word, shard_bytes):
    """A tensor that is larger than a shard has one of its own."""
    given = tensors(dtype) | {"scalar": np.array(3, dtype), "turned": np.eye(3, 2, dtype=dtype).T}
    shards.write(tmp_path, given, CONFIG, shard_bytes)
    assert_same(read(tmp_path), given)
    assert {tensor.dtype for tensor in shards.tensors_of(tmp_path).values()} == {word}
    assert json.loads((tmp_path / "config.json").read_text()) == CONFIG
    assert not list(tmp_path.glob("*.partial"))


def test_the_index_says_where_everything_is(folder):
    index = json.loads((folder / INDEX).read_text())
    assert index["metadata"] == {"total_size": 5 * 48}
    files = [f"model-0000{i}-of-00003.safetensors" for i in (1, 1, 2, 2, 3)]
    assert index["weight_map"] == dict(zip(tensors(), files, strict=True))
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        *sorted({*files}),
        INDEX,
    ]


def test_one_tensor_is_in_memory_at_a_time(tmp_path):
    """Of five of 8 MB each."""
    shards.write(tmp_path, tensors(size=10**6), CONFIG, shard_bytes=25 * 10**6)
    found = shards.tensors_of(tmp_path)
    tracemalloc.start()
    try:
        total = sum(float(array.sum()) for _, array in shards.arrays(found))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert np.isfinite(total) and peak < 20 * 10**6  # the next is read before the last is let go


@pytest.mark.parametrize("first, second", [(100, 10**9), (10**9, 100), (1, 100)])
def test_a_model_replaces_another_one(tmp_path, first, second):
    """No shard or index of the old one is left, which would be read in its place."""
    shards.write(tmp_path, {**tensors(), "old": np.ones(3, np.float32)}, CONFIG, first)
    new = {name: array + 1 for name, array in tensors().items()}
    shards.write(tmp_path, new, CONFIG, second)
    assert_same(read(tmp_path), new)
    files = {tensor.file.name for tensor in shards.tensors_of(tmp_path).values()}
    assert {path.name for path in tmp_path.glob("*.safetensors")} == files


def test_a_full_disk_leaves_what_was_there(folder, monkeypatch):
    """Full at the second shard: nothing half-written stays, and the old model is whole."""
    save, before = shards.save_file, {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(arrays, path, metadata):
        save(arrays, path, metadata)
        if "00002" in path.name:
            path.write_bytes(path.read_bytes()[:50])
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards, "save_file", full)
    with pytest.raises(WorkdirError, match=r"cannot be written \(No space left on device"):
        shards.write(folder, {name: array + 1 for name, array in tensors().items()}, {}, 100)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "model").write_text("")
    with pytest.raises(WorkdirError, match="model: cannot be written"):
        shards.write(tmp_path / "model", tensors(), CONFIG)


def header(about, data=b"\0" * 48, size=None):
    text = json.dumps(about).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def one(begin, end, shape=(6, 2)):
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}


DAMAGED = {
    "empty": b"",
    "no header": b"\xff" * 100,
    "a header of 2^63 bytes": header({}, size=2**63),
    "a header longer than the file": header({}, size=10_000),
    "a header that is no JSON": struct.pack("<Q", 4) + b"nope",
    "offsets past the end": header({"a": one(0, 48), "b": one(48, 96)}),
    "offsets that overlap": header({"a": one(0, 48), "b": one(24, 72)}, b"\0" * 72),
    "offsets that leave a hole": header({"a": one(0, 48), "b": one(60, 108)}, b"\0" * 108),
    "offsets backwards": header({"a": one(48, 0)}),
    "a shape that is not what is there": header({"a": one(0, 48, (7, 2))}),
    "a shape that overflows": header({"a": one(0, 48, (2**62, 2**62))}),
    "a dtype that is none": header({"a": one(0, 48) | {"dtype": "O"}}),
    "more than the header says": header({"a": one(0, 48)}, b"\0" * 60),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file(folder, content):
    (folder / FIRST).write_bytes(content)
    with pytest.raises(ModelError) as error:
        shards.tensors_of(folder)
    message = str(error.value)
    assert message.startswith(f"{folder / FIRST}: ") and "\n" not in message


def test_a_file_cut_short(folder):
    """At any byte."""
    content = (folder / FIRST).read_bytes()
    for size in range(0, len(content), 7):
        (folder / FIRST).write_bytes(content[:size])
        with pytest.raises(ModelError, match=FIRST):
            shards.tensors_of(folder)


def index(folder, weight_map):
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


REFUSED = {
    "a missing shard": (lambda folder: (folder / FIRST).unlink(), FIRST, "cannot be read"),
    "an index that is no JSON": (
        lambda folder: (folder / INDEX).write_text("{"),
        INDEX,
        "is no JSON object",
    ),
    "no map": (lambda folder: index(folder, None), INDEX, "has no weight_map"),
    "an empty map": (lambda folder: index(folder, {}), INDEX, "has no weight_map"),
    "a map to numbers": (lambda folder: index(folder, {"a": 1}), INDEX, "has no weight_map"),
    "a tensor of another shard": (
        lambda folder: index(folder, {"layers.4.weight": FIRST}),
        FIRST,
        "does not hold 'layers.4.weight'",
    ),
}
OUTSIDE = (
    "../model.safetensors",
    "/etc/passwd",
    "a/b.safetensors",
    "..",
    "a\nb.safetensors",
    "a.bin",
)


@pytest.mark.parametrize("damage, name, says", REFUSED.values(), ids=REFUSED)
def test_what_is_no_model(folder, damage, name, says):
    damage(folder)
    with pytest.raises(ModelError) as error:
        shards.tensors_of(folder)
    assert str(error.value).startswith(f"{folder / name}: ") and says in str(error.value)


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_index_names_files_beside_it_alone(folder, name):
    """Though what it names may be there."""
    shards.write(folder.parent, tensors(), CONFIG)
    index(folder, {"layers.0.weight": name})
    with pytest.raises(ModelError, match=r"no \.safetensors beside it") as error:
        shards.tensors_of(folder)
    assert str(folder / INDEX) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", [FIRST, INDEX])
@pytest.mark.parametrize("how", ["link", "fifo", "folder"])
def test_what_is_no_plain_file(folder, name, how):
    path = folder / name
    path.rename(folder.parent / "elsewhere")
    if how == "link":
        path.symlink_to(folder.parent / "elsewhere")
    elif how == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(ModelError, match="is not a plain file") as error:
        shards.tensors_of(folder)
    assert str(path) in str(error.value)


def test_what_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "missing"):
        with pytest.raises(ModelError, match="is no folder"):
            shards.tensors_of(path)
