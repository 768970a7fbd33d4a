"""Lets `manage.py` work as it is typed: with the Python of .venv, and for the system that `make run` runs here."""

import importlib.util
import os
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
VENV = PROJECT / ".venv"
# Whoever sets one of these has named an environment, and is given no other.
NAMES_AN_ENVIRONMENT = (
    "ENV_FILE", "DEBUG", "EMBEDDED", "SECRET_KEY", "PUBLIC_URL", "AMQP_URL", "SERVICES", "BACK_OFFICE",
    "DATABASE_URL", "DATABASE_URL_ORDERS", "DATABASE_URL_PAYMENTS", "DATABASE_URL_PROCESSING",
    "DJANGO_SETTINGS_MODULE",
)  # fmt: skip
EX_UNAVAILABLE, EX_CONFIG = 69, 78


def use_installed_python(argv: Sequence[str]) -> None:
    """
    Where this Python has no Django, become the one of .venv, with the same arguments.

    :raises SystemExit: if there is none
    """
    if importlib.util.find_spec("django"):
        return
    python = VENV / "bin" / "python"
    if python.exists() and Path(sys.prefix).resolve() != VENV.resolve():
        os.execv(python, [str(python), *argv])  # noqa: S606 (no shell is wanted)
    sys.stderr.write(
        "orders: nothing is installed yet: `make run` installs and starts everything, `make venv` only installs.\n"
    )
    raise SystemExit(EX_UNAVAILABLE)


def use_running_system(env: MutableMapping[str, str]) -> None:
    """
    Where the environment names no system, name the one that runs in DATA, if it is alive.

    :raises SystemExit: if none runs
    """
    if names_an_environment(env):
        return
    from . import places  # not before the right Python runs this

    data = places.data_of_run(env)
    if not (os.access(data / "env", os.R_OK) and places.is_in_use(data)):
        sys.stderr.write(
            f"orders: no system runs in {data}. Start one with `make run`, or name another:"
            " DATA=folder of a run, or ENV_FILE=file of variables (.env.example lists them).\n"
        )
        raise SystemExit(EX_CONFIG)
    env["ENV_FILE"] = str(data / "env")
    if sys.stderr.isatty() and "DJANGO_AUTO_COMPLETE" not in env:
        sys.stderr.write(f"orders: this is the system that runs in {data}.\n")


def names_an_environment(env: Mapping[str, str]) -> bool:
    """Whether a variable or the file `.env` says which system is meant."""
    return any(env.get(name) for name in NAMES_AN_ENVIRONMENT) or (PROJECT / ".env").is_file()
