"""Models in a folder: byte for byte what they were, and nothing else is one."""

import json
import os

import numpy as np
import pytest

from synthjax.io import tensors
from synthjax.io.tensors import ModelError
from synthjax.io.workdir import WorkdirError

PARAMS = {
    "encoder": {"0": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}},
    "bias": np.array([np.nan, -0.0, np.inf], np.float32),
}


@pytest.fixture
def folder(tmp_path):
    tensors.write(tmp_path / "model", PARAMS, {"width": 3})
    return tmp_path / "model"


def test_there_and_back(folder):
    params, config = tensors.read(folder)
    assert config == {"width": 3}
    assert params.keys() == PARAMS.keys()
    assert params["bias"].tobytes() == PARAMS["bias"].tobytes()
    kernel = params["encoder"]["0"]["kernel"]
    assert kernel.dtype == np.float32 and (kernel == PARAMS["encoder"]["0"]["kernel"]).all()
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "model").write_text("")
    with pytest.raises(WorkdirError, match="cannot be written"):
        tensors.write(tmp_path / "model", PARAMS, {})


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("model.safetensors", None, "cannot be read"),
        ("config.json", None, "cannot be read"),
        ("config.json", b"[]", "is no JSON object"),
        ("config.json", b"\xff", "is no JSON object"),
        ("config.json", b"[" * 100_000, "is no JSON object"),
        ("config.json", b" " * (2**20 + 1), "has 1048577 bytes"),
        ("model.safetensors", b"", "model.safetensors: "),
        ("model.safetensors", b"\xff" * 100, "model.safetensors: "),
    ],
)
def test_what_is_no_model(folder, name, content, says):
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(ModelError) as error:
        tensors.read(folder)
    assert says in str(error.value) and str(folder / name) in str(error.value)


@pytest.mark.parametrize("how", ["link", "fifo", "folder"])
def test_what_is_no_plain_file(folder, how, tmp_path):
    path = folder / "config.json"
    path.rename(tmp_path / "elsewhere")
    {"link": lambda: os.symlink(tmp_path / "elsewhere", path), "fifo": lambda: os.mkfifo(path)}.get(
        how, path.mkdir
    )()
    with pytest.raises(ModelError, match="is not a plain file"):
        tensors.read(folder)


def test_names_that_are_parts_of_each_other(folder):
    one = np.zeros(1, np.float32)
    content = tensors.save({"a": one, "a.b": one})
    (folder / "model.safetensors").write_bytes(content)
    assert json.loads((folder / "config.json").read_text())
    with pytest.raises(ModelError, match="is a part of another tensor's name"):
        tensors.read(folder)
