"""A bucket of Cloud Storage's own protocol, served by an emulator on this machine."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

SERVE = """
import functools, pathlib, sys, threading
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

# What TensorStore needs and the emulator lacks: several requests at once, the generation of what is
# read, and writing on the condition that nobody else has. A file `down` is an outage.
server.server.HTTPServer = ThreadingHTTPServer
one_at_a_time = threading.Lock()
port, folder = sys.argv[1:]
down = pathlib.Path(folder, "down")


def guarded(handler):
    @functools.wraps(handler)
    def handle(request, response, storage, *args, **kwargs):
        with one_at_a_time:
            if down.exists():
                response.status = HTTPStatus.SERVICE_UNAVAILABLE
                return
            name = request.params.get("object_id") or request.query.get("name", [""])[0]
            try:
                generation = storage.get_file_obj(request.params["bucket_name"], name)["generation"]
            except NotFound:
                generation = "0"
            if request.query.get("ifGenerationMatch", [generation])[0] != generation:
                response.status = HTTPStatus.PRECONDITION_FAILED
            elif generation in request.query.get("ifGenerationNotMatch", []):
                response.status = HTTPStatus.NOT_MODIFIED
            else:
                response["x-goog-generation"] = generation
                handler(request, response, storage, *args, **kwargs)

    return handle


own = (objects.get, objects.download, objects.insert, objects.delete)
for _, handlers in server.HANDLERS:
    for method, handler in handlers.items():
        handlers[method] = guarded(handler) if handler in own else handler
server.create_server(
    "localhost", int(port), in_memory=False, data_dir=folder, default_bucket="bucket"
).run()
"""


class Bucket:
    """gs://bucket, whose objects are also files below `files`; `environment` says where it is.

    It reads and writes no object (503) while there is a file `down`.
    """

    def __init__(self, folder: Path, port: int):
        self.files = folder / ".cloudstorage" / "bucket"
        self.down = folder / "down"
        self.environment = dict.fromkeys(
            ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"), f"http://localhost:{port}"
        )


@contextmanager
def served(folder: Path) -> Iterator[Bucket]:
    """The bucket, while the block runs."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    log = (folder / "log").open("wb")
    command = [sys.executable, "-c", SERVE, str(port), str(folder / "data")]
    with subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            bucket = Bucket(folder / "data", port)
            while not reached(port):
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.05)
            with patch.dict(os.environ, bucket.environment):
                yield bucket
        finally:
            process.kill()


def reached(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("localhost", port)) == 0
