"""Clients of the API for tests: tokens as the token endpoint signs them."""

import time
from pathlib import Path
from typing import Any

from orders_project.auth import keys


def bearer(principal: str, *scopes: str, **claims: Any) -> dict[str, str]:
    """The Authorization header of a client with these scopes."""
    now = int(time.time())
    standard = {"sub": principal, "scope": " ".join(scopes), "iat": now, "exp": now + 3600}
    return {"Authorization": f"Bearer {keys.sign(standard | claims)}"}


def new_key(path: Path) -> str:
    keys.make(path)
    return str(path)
