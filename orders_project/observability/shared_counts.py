"""Where the processes of one program count together, so that each of them can tell the metrics of all."""

import atexit
import os
import shutil
import tempfile

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # of prometheus_client, which reads it when the first metric is created


def share() -> None:
    """Share a folder with the children of this process: that of the environment, or a new one that goes with us."""
    if not os.environ.get(FOLDER):
        os.environ[FOLDER] = folder = tempfile.mkdtemp(prefix="orders-metrics-")
        atexit.register(_remove, folder, made_by=os.getpid())


def _remove(folder: str, *, made_by: int) -> None:
    if os.getpid() == made_by:  # and not in a child, which ends earlier
        shutil.rmtree(folder, ignore_errors=True)
