"""Callers for tests: tokens as the token endpoint would sign them."""

import time
from pathlib import Path
from typing import Any

from orders_project.auth import keys


def bearer(principal: str, *scopes: str, **claims: Any) -> dict[str, str]:
    """The Authorization header of a client that may do this."""
    now = int(time.time())
    said = {"sub": principal, "scope": " ".join(scopes), "iat": now, "exp": now + 60}
    return {"Authorization": f"Bearer {keys.sign(said | claims)}"}


def new_key(path: Path) -> str:
    keys.make(path)
    return str(path)
