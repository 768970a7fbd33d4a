"""A server that begins an answer and never ends it, with or without TLS, and a timer that a test lets fire."""

import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

TOO_LONG = 20  # seconds, after which a client that is still there has not been cut off


class SlowServer:
    """
    Takes one connection, reads what comes first, answers with these bytes one by one, and calls `then`.

    With `tls`, all of that happens after a handshake. `was_cut_off` says whether the client was gone after that.
    """

    def __init__(self, answer: bytes, *, then: Callable[[], None], tls: ssl.SSLContext | None = None) -> None:
        self._answer, self._then, self._tls = answer, then, tls
        self._cut_off = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(TOO_LONG)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._thread.join()
        self._listener.close()

    def was_cut_off(self) -> bool:
        self._thread.join()
        return self._cut_off

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(TOO_LONG)
        with contextlib.ExitStack() as open_ones:
            open_ones.enter_context(connection)
            if self._tls is not None:
                connection = open_ones.enter_context(self._tls.wrap_socket(connection, server_side=True))
            connection.recv(65536)
            for byte in self._answer:
                connection.sendall(bytes([byte]))
            self._then()
            with contextlib.suppress(TimeoutError):
                self._cut_off = _ends(connection)


def _ends(connection: socket.socket) -> bool:
    """Wait for the end of a connection."""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while connection.recv(65536):
            pass
    return True


class TimerByHand:
    """Stands in for `threading.Timer`: a test says when the time is over."""

    running: ClassVar[list["TimerByHand"]] = []

    def __init__(self, interval: float, function: Callable[..., Any], args: tuple[Any, ...] = ()) -> None:
        self._fire = lambda: function(*args)

    def start(self) -> None:
        self.running.append(self)

    def cancel(self) -> None:
        self.running.remove(self)

    def join(self) -> None:
        pass

    @classmethod
    def fire(cls) -> None:
        (timer,) = cls.running
        timer._fire()


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> type[TimerByHand]:
    monkeypatch.setattr(TimerByHand, "running", [])
    monkeypatch.setattr(threading, "Timer", TimerByHand)
    return TimerByHand


def tls(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Make a certificate authority; return the file of its certificate, and the TLS of a server at 127.0.0.1."""
    authority, authority_key = _certificate("authority")
    server, server_key = _certificate("server", authority, authority_key)
    trusted, files = folder / "authority.pem", (folder / "server.pem", folder / "server.key")
    trusted.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    files[0].write_bytes(server.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    return trusted, context


def _certificate(
    name: str, issuer: x509.Certificate | None = None, issuer_key: ec.EllipticCurvePrivateKey | None = None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Return a certificate with its key: of an authority, or one that was issued by an authority."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if issuer is not None:
        here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = builder.add_extension(here, critical=False)
    return builder.sign(issuer_key or key, hashes.SHA256()), key
