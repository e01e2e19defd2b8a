"""results.nc: labelled results, read and written with xarray."""

import io

import xarray as xr

from synthjax.io import storage
from synthjax.io.processes import agreed
from synthjax.io.storage import Place
from synthjax.io.watchdog import Watchdog
from synthjax.io.workdir import WorkdirError


def write(dataset: xr.Dataset, path: Place) -> None:
    """Write a netCDF file so that it is there whole or not at all; the same data, the same bytes.

    Raises WorkdirError where the disk does not take it.
    """
    try:
        # Through memory: HDF5 does not survive a disk that fills up while it writes.
        storage.write(path, dataset.to_netcdf(engine="h5netcdf", invalid_netcdf=False))
    except OSError as error:
        raise WorkdirError(
            f"{path}: could not be written ({error.strerror or error}); every generation is "
            "safe in checkpoints/, so make room and run the same command again"
        ) from None


def write_together(dataset: xr.Dataset, path: Place) -> None:
    """The same in a run that several processes share, of which the first writes."""
    with Watchdog() as watchdog:
        watchdog.between([variable.values for variable in dataset.variables.values()])
        agreed(lambda: write(dataset, path))


def read(path: Place) -> xr.Dataset:
    """Read results.nc into memory."""
    return xr.load_dataset(io.BytesIO(storage.read(path)), engine="h5netcdf")
