"""results.nc: labelled results, read and written with xarray."""

import os
from pathlib import Path

import xarray as xr

from synthjax.io.workdir import WorkdirError


def write(dataset: xr.Dataset, path: Path) -> None:
    """Write a netCDF file so that it is there whole or not at all; the same data, the same bytes.

    Raises WorkdirError where the disk does not take it.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        # Through memory: HDF5 does not survive a disk that fills up while it writes.
        with partial.open("wb") as file:
            file.write(dataset.to_netcdf(engine="h5netcdf", invalid_netcdf=False))
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise WorkdirError(
            f"{path}: could not be written ({error.strerror or error}); every generation is "
            "safe in checkpoints/, so make room and run the same command again"
        ) from None


def read(path: Path) -> xr.Dataset:
    """Read results.nc into memory."""
    return xr.load_dataset(path, engine="h5netcdf")
