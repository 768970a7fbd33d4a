"""gRPC with TLS: callers who trust the server's certificate reach it, and nobody reaches it in the clear."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from orders_project.grpc import transport


def make_certificate(folder: Path, *, host: str) -> tuple[Path, Path]:
    """A key and a certificate for this host, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    paths = folder / f"{host}.key.pem", folder / f"{host}.pem"
    paths[0].write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    paths[1].write_bytes(certificate.public_bytes(pem))
    return paths


@pytest.fixture
def address(tmp_path: Path, settings: Any) -> Iterator[str]:
    """A server with TLS that has the certificate of the host `grpc`."""
    settings.GRPC_TLS_KEY, settings.GRPC_TLS_CERT = map(str, make_certificate(tmp_path, host="grpc"))
    settings.GRPC_TLS_CA, settings.ORDER_SERVICE_GRPC = settings.GRPC_TLS_CERT, "grpc:50051"
    server = grpc.server(ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    port = transport.bind(server, "127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


def status_at(channel: grpc.Channel) -> int:
    with channel:
        return int(health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60).status)


def test_a_caller_who_trusts_the_certificate_gets_an_answer(address: str) -> None:
    assert status_at(transport.channel(address)) == health_pb2.HealthCheckResponse.SERVING


def test_a_caller_without_tls_gets_none(address: str, settings: Any) -> None:
    settings.GRPC_TLS_CA = ""
    with pytest.raises(grpc.RpcError):
        status_at(transport.channel(address))


@pytest.mark.parametrize("trusted", ["grpc", "elsewhere"])
def test_a_server_that_is_not_the_expected_one_is_not_called(
    address: str, settings: Any, tmp_path: Path, trusted: str
) -> None:
    """Of another authority, or with the certificate of another host."""
    if trusted == "grpc":
        (tmp_path / "other").mkdir()
        settings.GRPC_TLS_CA = str(make_certificate(tmp_path / "other", host="grpc")[1])
    else:
        settings.ORDER_SERVICE_GRPC = "elsewhere:50051"
    with pytest.raises(grpc.RpcError):
        status_at(transport.channel(address))
