"""How gRPC is carried between processes: in the clear, or with TLS where the settings name keys."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
from django.conf import settings


def bind(server: Any, address: str) -> int:
    """Have a server, of threads or of asyncio, listen at an address; return the port."""
    if not settings.GRPC_TLS_CERT:
        return int(server.add_insecure_port(address))
    pair = (Path(settings.GRPC_TLS_KEY).read_bytes(), Path(settings.GRPC_TLS_CERT).read_bytes())
    return int(server.add_secure_port(address, grpc.ssl_server_credentials([pair])))


def channel(address: str) -> grpc.Channel:
    """Return a channel to the order service, whose certificate must name the host in `ORDER_SERVICE_GRPC`."""
    if not settings.GRPC_TLS_CA:
        return grpc.insecure_channel(address)
    trusted = grpc.ssl_channel_credentials(Path(settings.GRPC_TLS_CA).read_bytes())
    name = urlsplit(f"//{settings.ORDER_SERVICE_GRPC}").hostname or ""
    # The probe of a process connects to it on loopback, which no certificate names.
    return grpc.secure_channel(address, trusted, options=[("grpc.ssl_target_name_override", name)])
