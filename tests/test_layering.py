"""Imports point one way, and what is pure stays pure."""

import ast
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A room imports only itself and the rooms of earlier lines, not the others of its own line.
LAYERS = (
    ("io",),
    ("protocol",),
    ("mixture", "nn"),
    ("eigen", "summarize"),
    ("scaling", "plan"),
    ("plot",),
    ("configs",),
    ("launch",),
)
# The rest of such a room is pure: it imports neither io nor the entries, which do.
ENTRIES = {
    "protocol": ("synthjax.protocol.loop",),
    "mixture": ("synthjax.mixture.sweep",),
    "eigen": ("synthjax.eigen.sweep",),
    # A directory that comes in or goes out is a file format; `hf` is also for use alone.
    "summarize": ("synthjax.summarize.sweep", "synthjax.summarize.hf"),
}
PURE = ("nn",)  # all of it
# Who may import these packages.
OUTSIDERS = {"orbax": ("synthjax.io.checkpoint",), "torch": (), "sklearn": ()}


def module_name(path):
    parts = Path(path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path, source):
    """Every name that a file imports, in full: `from synthjax import io` gives synthjax.io."""
    package = ".".join(Path(path).parent.parts)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{module}.{alias.name}" for alias in node.names)


def within(name, module):
    return name == module or name.startswith(module + ".")


def room(name):
    parts = name.split(".")
    if parts[0] == "synthjax":
        return parts[1] if len(parts) > 1 else None  # synthjax itself only exports
    return parts[0] if parts[0] in ("configs", "launch") else None


def violations(path, source):
    module = module_name(path)
    here = room(module)
    layer = {name: i for i, names in enumerate(LAYERS) for name in names}
    for name in imported(path, source):
        there = room(name)
        if here and there in layer and there != here and layer[there] >= layer[here]:
            yield f"{path}: {here} imports {name}"
        entries = ENTRIES.get(here, ())
        pure = here in PURE or (entries and module not in (*entries, f"synthjax.{here}"))
        if pure and any(within(name, other) for other in ("synthjax.io", *entries)):
            yield f"{path}: pure, and imports {name}"
        for outsider, allowed in OUTSIDERS.items():
            if module.startswith("synthjax") and within(name, outsider) and module not in allowed:
                yield f"{path}: imports {name}"


def sources():
    return sorted(
        path.relative_to(ROOT)
        for folder in ("synthjax", "configs", "launch")
        for path in (ROOT / folder).rglob("*.py")
    )


def test_imports_point_one_way():
    found = [line for path in sources() for line in violations(path, (ROOT / path).read_text())]
    assert not found, "\n".join(found)


def test_every_room_has_its_place():
    rooms = {room(module_name(path)) for path in sources()} - {None}
    assert {"protocol", "io", "mixture", "plot"} <= rooms  # the walk found the tree
    assert rooms <= {name for names in LAYERS for name in names}


@pytest.mark.parametrize(
    "path,source",
    [
        ("synthjax/protocol/select.py", "from synthjax.mixture import spec"),
        ("synthjax/protocol/select.py", "from synthjax.io import results"),
        ("synthjax/io/results.py", "import synthjax.protocol.spec"),
        ("synthjax/mixture/sweep.py", "from synthjax.plot.figures import heat_map"),
        ("synthjax/mixture/sweep.py", "from ..nn import train"),
        ("synthjax/eigen/task.py", "def f():\n    import synthjax.summarize.data"),
        ("synthjax/plot/figures.py", "from configs import mixture"),
        ("synthjax/mixture/sweep.py", "import launch.mixture"),
        ("configs/mixture.py", "from launch import mixture"),
        ("synthjax/mixture/data.py", "from synthjax import io"),
        ("synthjax/nn/train.py", "from synthjax.io import log"),
        ("synthjax/mixture/theory.py", "from ..io.checkpoint import save"),
        ("synthjax/mixture/learn.py", "from . import sweep"),
        ("synthjax/mixture/sweep.py", "import orbax.checkpoint as ocp"),
        ("synthjax/io/results.py", "from orbax import checkpoint"),
        ("synthjax/mixture/learn.py", "from sklearn.linear_model import Ridge"),
        ("synthjax/io/checkpoint.py", "import torch"),
        ("synthjax/summarize/task.py", "from synthjax.summarize import hf"),
    ],
)
def test_a_violation_is_seen(path, source):
    assert len(list(violations(path, source))) == 1


@pytest.mark.parametrize(
    "path,source",
    [
        ("synthjax/__init__.py", "from synthjax import mixture"),
        ("synthjax/mixture/__init__.py", "from synthjax.mixture.sweep import run"),
        ("synthjax/mixture/sweep.py", "from synthjax.io import checkpoint, results\nimport jax"),
        ("synthjax/mixture/data.py", "from synthjax.protocol import keys\nfrom . import spec"),
        ("synthjax/plot/figures.py", "from synthjax.mixture import theory"),
        ("synthjax/io/checkpoint.py", "import orbax.checkpoint as ocp\nfrom . import stop"),
        ("configs/mixture.py", "from synthjax.mixture.spec import Spec"),
        ("launch/mixture.py", "from synthjax import mixture, plot\nfrom configs import mixture"),
    ],
)
def test_what_is_allowed_passes(path, source):
    assert not list(violations(path, source))
