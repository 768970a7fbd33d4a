"""manage.py as it is typed: with which Python it runs, and which system it asks."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

from orders_project.embedded import launcher, places


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of a .venv beside a Python without Django."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(launcher, "VENV", tmp_path / ".venv")
    return tmp_path / ".venv"


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for module in (launcher, places):
        monkeypatch.setattr(module, "PROJECT", tmp_path)
    return tmp_path


class TestThePython:
    def test_of_the_venv_takes_over(self, nothing_installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        python = nothing_installed / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.touch()
        became: list[Any] = []

        def become(*what: Any) -> None:
            became.append(what)
            raise SystemExit

        monkeypatch.setattr(os, "execv", become)
        with pytest.raises(SystemExit):
            launcher.use_installed_python(["manage.py", "status"])
        assert became == [(python, [str(python), "manage.py", "status"])]

    def test_says_what_to_do_if_there_is_none(
        self, nothing_installed: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            launcher.use_installed_python(["manage.py", "status"])
        said = capsys.readouterr().err
        assert "`make run`" in said
        assert len(said.splitlines()) == 1

    def test_stays_where_django_is(self) -> None:
        launcher.use_installed_python(["manage.py", "status"])


class TestTheSystem:
    def test_is_the_one_that_runs_here(self, project: Path) -> None:
        data = project / ".data"
        with places.claim(data):
            (data / "env").touch()
            env: dict[str, str] = {}
            launcher.use_running_system(env)
        assert env == {"ENV_FILE": str(data / "env")}

    @pytest.mark.parametrize("name", launcher.NAMES_AN_ENVIRONMENT)
    def test_is_never_another_than_the_environment_names(self, project: Path, name: str) -> None:
        data = project / ".data"
        with places.claim(data):
            (data / "env").touch()
            env = {name: "something"}
            launcher.use_running_system(env)
        assert env == {name: "something"}

    def test_is_never_another_than_the_file_names(self, project: Path) -> None:
        (project / ".env").touch()
        env: dict[str, str] = {}
        launcher.use_running_system(env)
        assert env == {}

    def test_is_none_if_that_run_is_dead(self, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
        data = project / ".data"
        places.claim(data).close()
        (data / "env").touch()  # as a run leaves it that was killed
        with pytest.raises(SystemExit) as ended:
            launcher.use_running_system({})
        assert ended.value.code == launcher.EX_CONFIG
        said = capsys.readouterr().err
        assert "`make run`" in said
        assert len(said.splitlines()) == 1
