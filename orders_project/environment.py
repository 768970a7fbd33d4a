"""Reads the environment. Each variable that is wrong or missing is reported in one line, and all of them at once."""

import os
import re
import sys
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import SplitResult, urlsplit

import environ

from .production import weakness

T = TypeVar("T")
Network = IPv4Network | IPv6Network

MIN_SECRET_LENGTH = 16
POSTGRES = ("postgres", "postgresql")
WHOLE = re.compile(r"[0-9]{1,18}")
RENAMED = {"ROOMS": "SERVICES"}  # variables under their former names, which still work in this release


class Environment:
    """Reads variables and collects their problems; `finish` ends the process if there are any."""

    def __init__(self, *, env_file: Path) -> None:
        self.problems: list[str] = []
        named = os.environ.get("ENV_FILE")
        if Path(named or env_file).is_file():
            environ.Env.read_env(named or env_file)
        elif named:
            self.problems.append(f"ENV_FILE: there is no file {named}. Is the embedded run started?")
        for old, new in RENAMED.items():
            if os.environ.get(old):
                os.environ.setdefault(new, os.environ[old])
        self.debug = self.flag("DEBUG", default=False)
        self.embedded = self.flag("EMBEDDED", default=False)

    @property
    def relaxed(self) -> bool:
        """Whether development secrets are accepted: with DEBUG and in the embedded run."""
        return self.debug or self.embedded

    def _read(self, name: str, default: T, read: Callable[[str], T], expected: str) -> T:
        value = os.environ.get(name, "").strip()
        if not value:
            return default
        try:
            return read(value)
        except (ValueError, environ.ImproperlyConfigured):
            self.problems.append(f"{name}: {value!r} is not {expected}.")
            return default

    def flag(self, name: str, *, default: bool) -> bool:
        words = {
            "1": True,
            "true": True,
            "yes": True,
            "on": True,
            "0": False,
            "false": False,
            "no": False,
            "off": False,
        }
        return self._read(name, default, lambda value: _lookup(words, value.lower()), "true or false")

    def whole(self, name: str, *, default: int, min_value: int = 0, max_value: int = 2**31) -> int:
        return self._read(
            name,
            default,
            lambda value: _within(int(value), min_value, max_value),
            f"a whole number from {min_value} to {max_value}",
        )

    def fraction(self, name: str, *, default: float) -> float:
        return self._read(name, default, lambda value: _within(float(value), 0, 1), "a number from 0 to 1")

    def seconds(self, name: str, *, default: float) -> float:
        return self._read(name, default, lambda value: _within(float(value), 0.001, 1e9), "a number of seconds")

    def age(self, name: str, *, default: str) -> str:
        """How long something is kept, as RabbitMQ writes it."""
        return self._read(
            name, default, _an_age, "a number of years, months, days or hours, such as 30D (Y, M, D, h; also m, s)"
        )

    def text(self, name: str, *, default: str = "") -> str:
        return os.environ.get(name, "").strip() or default

    def name(self, name: str) -> str:
        """A short name, or nothing."""
        return self._read(name, "", _a_name, "a name of up to 20 letters, digits, dots, dashes or underscores")

    def words(self, name: str, *, default: list[str]) -> list[str]:
        value = os.environ.get(name, "").strip()
        return [word.strip() for word in value.split(",") if word.strip()] if value else default

    def pairs(self, name: str) -> dict[str, str]:
        """The values that are given for names: `name=value`, separated by commas."""
        words = [word.partition("=") for word in self.words(name, default=[])]
        if not all(key and value for key, _, value in words):
            self.problems.append(f"{name} is not of the form name=value,name=value.")
        found = {key: value for key, _, value in words}
        if len(found) < len(words):
            self.problems.append(f"{name} has two values for one name.")
        return found

    def services(self, name: str, *, of: tuple[str, ...]) -> tuple[str, ...]:
        """The services that are named, by default all. "none" is for a process that serves none, such as beat."""
        words = self.words(name, default=list(of))
        if words == ["none"]:
            return ()
        if unknown := set(words) - set(of):
            self.problems.append(
                f"{name}: no service {', '.join(sorted(unknown))}; there are {', '.join(of)}, or none."
            )
        return tuple(service for service in of if service in words)

    def several(self, name: str, *, of: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the known words that are named, each once, in the order of the variable."""
        words = self.words(name, default=[])
        if unknown := set(words) - set(of):
            self.problems.append(f"{name}: there is no {', '.join(sorted(unknown))}; there are {', '.join(of)}.")
        return tuple(dict.fromkeys(word for word in words if word in of))

    def numbers(self, name: str, *, below: int) -> tuple[int, ...]:
        """The whole numbers below this one that are named, each once; by default all of them."""
        return tuple(map(int, self.several(name, of=tuple(map(str, range(below)))))) or tuple(range(below))

    def whole_numbers(self, name: str, *, of: tuple[str, ...]) -> dict[str, int]:
        """Whole numbers that are given for some of the known words: `word=number`, separated by commas."""
        given = self.pairs(name)
        if wrong := [word for word, text in given.items() if word not in of or not WHOLE.fullmatch(text)]:
            self.problems.append(f"{name}: {', '.join(wrong)} has no whole number, or is none of {', '.join(of)}.")
        return {word: int(text) for word, text in given.items() if word not in wrong}

    def networks(self, name: str, *, default: list[str]) -> list[Network]:
        found = []
        for word in self.words(name, default=default):
            try:
                found.append(ip_network(word))
            except ValueError:
                self.problems.append(f"{name}: {word!r} is not an address or a network.")
        return found

    def choice(self, name: str, *, default: str, of: tuple[str, ...]) -> str:
        return self._read(name, default, lambda value: _lookup({w: w for w in of}, value), f"one of {', '.join(of)}")

    def url(self, name: str, *, schemes: tuple[str, ...], default: str | None = None) -> str:
        """A URL. Without a default it is required."""
        value = os.environ.get(name, "").strip() or default
        if value is None:
            such = "shop.example" if schemes[0] == "https" else "user:password@host/name"
            self.problems.append(f"{name} is missing: a URL such as {schemes[0]}://{such}.")
            return f"{schemes[0]}://missing.invalid/"
        if _parts(value, schemes) is None:
            self.problems.append(f"{name} is not a URL of the form {schemes[0]}://user:password@host/name.")
            return f"{schemes[0]}://missing.invalid/"
        return value

    def urls(self, name: str, *, schemes: tuple[str, ...], default: str | None = None) -> str:
        """One URL, or those of the nodes of a cluster separated by `;`, which differ in their hosts alone."""
        value = self.text(name)
        if ";" not in value:
            return self.url(name, schemes=schemes, default=default)
        found = [_parts(node.strip(), schemes) for node in value.split(";")]
        nodes = [node for node in found if node is not None]
        if len(nodes) < len(found):
            form = f"{schemes[0]}://user:password@host/name"
            self.problems.append(f"{name}: each node needs a URL of the form {form}, and a ; only between two of them.")
        elif len({(node.scheme, node.username, node.path) for node in nodes}) > 1:
            self.problems.append(f"{name}: the nodes of a cluster have the same scheme, user and name at the end.")
        elif len({(node.hostname, node.port) for node in nodes}) < len(nodes):
            self.problems.append(f"{name} names a node twice.")
        return ";".join(node.geturl() for node in nodes)

    def database(self, name: str, *, database: str) -> dict[str, Any]:
        """A database; with `DIRECT`, the same one past PgBouncer, if there is an address of it."""
        found, direct = self._database(name, database), f"{name}_DIRECT"
        if self.text(direct):
            past = found["DIRECT"] = self._database(direct, database)
            if past.get("HOST") and all(past[part] == found.get(part) for part in ("HOST", "PORT")):
                self.problems.append(
                    f"{direct} leads to the same server as {name}, which has to lead through PgBouncer if both are set."
                )
        return found

    def _database(self, name: str, database: str) -> dict[str, Any]:
        value = self.text(name) or (f"postgres://localhost/{database}" if self.debug else "")
        if not value:
            self.url(name, schemes=POSTGRES)  # which says that it is missing
            return {}
        try:
            parts = urlsplit(value)
        except ValueError:
            parts = urlsplit("//")
        credentials, _, hosts = parts.netloc.rpartition("@")
        found = [_parts(f"{parts.scheme}://{host}", POSTGRES) for host in hosts.split(",")]
        several = [host for host in found if host is not None]
        if len(several) < len(found) or not value.startswith(_beginnings(POSTGRES)):
            form = "host:port,host:port" if "," in hosts else "host"
            self.problems.append(f"{name} is not a URL of the form postgres://user:password@{form}/name.")
            return {}
        if not parts.path.strip("/"):
            self.problems.append(f"{name} names no database: postgres://user:password@host/name.")
            return {}
        one = parts._replace(netloc=f"{credentials}@{hosts.partition(',')[0]}".removeprefix("@")).geturl()
        settings = dict(environ.Env.db_url_config(one))
        if len(several) == 1:
            return settings
        # libpq tries one after the other, until one of them takes writes, or is a standby if that is what is wanted.
        wanted = "prefer-standby" if name.endswith("_READ") else "read-write"
        options = {"target_session_attrs": wanted} | settings.get("OPTIONS", {})
        names, ports = (str(host.hostname) for host in several), (str(host.port or 5432) for host in several)
        return settings | {"HOST": ",".join(names), "PORT": ",".join(ports), "OPTIONS": options}

    def addresses(self, name: str) -> list[str]:
        """The addresses of databases, each at one server."""
        urls = self.words(name, default=[])
        found = [_parts(url, POSTGRES) for url in urls]
        if not all(parts is not None and parts.path.strip("/") for parts in found):
            self.problems.append(f"{name} is not of the form postgres://user:password@host/name, one host in each.")
        return urls

    def secrets(
        self, name: str, *, development: str = "", min_length: int = MIN_SECRET_LENGTH, needed: bool = True
    ) -> list[str]:
        """A secret, or several separated by commas while they are rotated, the newest first."""
        secrets = self.words(name, default=[development] if self.relaxed and development else [])
        if needed and not secrets:
            self.problems.append(f"{name} is missing: a secret of at least {min_length} characters.")
        for secret in secrets if not self.relaxed else ():
            if weak := weakness(secret, min_length=min_length):
                self.problems.append(f"{name} {weak}.")
        return secrets

    def finish(self) -> None:
        """Print each problem in one line and end the process, if there are any."""
        if self.problems:
            _end(self.problems)


def _end(problems: list[str]) -> NoReturn:
    for problem in problems:
        sys.stderr.write(f"orders: {problem}\n")
    sys.stderr.write("orders: see .env.example for every variable.\n")
    raise SystemExit(78)  # EX_CONFIG


def _beginnings(schemes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{scheme}://" for scheme in schemes)


def _parts(url: str, schemes: tuple[str, ...]) -> SplitResult | None:
    """The parts of a URL with one of these schemes and a host; None if it is none, or more than one."""
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:  # of its port or its brackets
        return None
    return parts if has_host and url.startswith(_beginnings(schemes)) and url.count("://") == 1 else None


def _lookup(table: dict[str, T], key: str) -> T:
    if key not in table:
        raise ValueError(key)
    return table[key]


def _a_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,20}", value):
        raise ValueError(value)
    return value


def _an_age(value: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]{0,4}[YMDhms]", value):
        raise ValueError(value)
    return value


def _within(value: Any, min_value: float, max_value: float) -> Any:
    if not min_value <= value <= max_value:
        raise ValueError(value)
    return value
