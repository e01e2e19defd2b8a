"""Figures as files."""

import io
from collections.abc import Callable, Mapping

import xarray as xr
from matplotlib.figure import Figure

from synthjax.io import storage
from synthjax.io.storage import Place
from synthjax.io.workdir import WorkdirError


def save(
    drawings: Mapping[str, Callable[[xr.Dataset], Figure]], results: xr.Dataset, directory: Place
) -> list[Place]:
    """Draw the results into `directory`/NAME.png each; WorkdirError where it cannot."""
    return [write(draw(results), directory / f"{name}.png") for name, draw in drawings.items()]


def write(figure: Figure, path: Place) -> Place:
    """Write a figure as PNG, and give back where. Raises WorkdirError where the disk refuses it."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    try:
        storage.make(path.parent)
        storage.write(path, content.getvalue())
    except OSError as error:
        raise WorkdirError(
            f"{path}: could not be written ({error.strerror or error}); the numbers are safe"
        ) from None
    return path
