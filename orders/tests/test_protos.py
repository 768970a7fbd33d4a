"""The stubs in the repository are those that the .proto file generates."""

from importlib.resources import files
from pathlib import Path

from django.conf import settings
from grpc_tools import protoc

PROTO = "orders/protos/order_service.proto"


def test_the_stubs_are_fresh(tmp_path: Path) -> None:
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    sources = [f"-I{settings.BASE_DIR}", f"-I{files('grpc_tools') / '_proto'}"]
    assert protoc.main(["protoc", *sources, *outputs, PROTO]) == 0
    made = sorted((tmp_path / "orders/protos").iterdir())
    assert len(made) == 3
    for stub in made:
        kept = Path(settings.BASE_DIR, "orders/protos", stub.name)
        assert stub.read_text() == kept.read_text(), f"{stub.name} is stale: run `make protos`"
