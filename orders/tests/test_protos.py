"""The stubs in the repository are those of the .proto file, which takes nothing away from clients of a release."""

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from django.conf import settings
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

from orders.protos import order_service_pb2 as pb

PROTO = "orders/protos/order_service.proto"
RELEASED = "docs/contracts/1.0.0/order_service.proto"
KEPT = ("name", "type", "label", "type_name", "proto3_optional")  # of a field, by its number


def generate(proto: str, *options: str) -> None:
    sources = [f"-I{settings.BASE_DIR}", f"-I{files('grpc_tools') / '_proto'}"]
    assert protoc.main(["protoc", *sources, *options, proto]) == 0


def lost(old: FileDescriptorProto, new: FileDescriptorProto) -> Iterator[str]:
    """What clients of the old file would miss in the new one."""
    methods = {method.name: method for service in new.service for method in service.method}
    for method in (method for service in old.service for method in service.method):
        if methods.get(method.name) != method:
            yield method.name
    messages = {message.name: message for message in new.message_type}
    for message in old.message_type:
        fields = {field.number: field for field in messages.get(message.name, DescriptorProto()).field}
        for field in message.field:
            now = fields.get(field.number, FieldDescriptorProto())
            if any(getattr(field, name) != getattr(now, name) for name in KEPT):
                yield f"{message.name}.{field.name}"


def test_the_stubs_are_fresh(tmp_path: Path) -> None:
    generate(PROTO, *(f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")))
    made = sorted((tmp_path / "orders/protos").iterdir())
    assert len(made) == 3
    for stub in made:
        kept = Path(settings.BASE_DIR, "orders/protos", stub.name)
        assert stub.read_text() == kept.read_text(), f"{stub.name} is stale: run `make protos`"


def test_clients_of_a_release_miss_nothing(tmp_path: Path) -> None:
    generate(RELEASED, f"--descriptor_set_out={tmp_path / 'released'}")
    (old,) = FileDescriptorSet.FromString((tmp_path / "released").read_bytes()).file
    new = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(new)
    assert list(lost(old, new)) == []
    new.service[0].method[0].input_type = ".google.protobuf.Empty"
    del new.message_type[0].field[0]
    assert list(lost(old, new)) == ["CreateOrder", "CreateOrderRequest.order_id"]


def test_every_double_is_an_exact_text_too() -> None:
    doubles = [
        (message, field)
        for message in pb.DESCRIPTOR.message_types_by_name.values()
        for field in message.fields
        if field.type == field.TYPE_DOUBLE
    ]
    assert len(doubles) == 10
    for message, field in doubles:
        assert field.GetOptions().deprecated
        assert message.fields_by_name[f"decimal_{field.name}"].type == field.TYPE_STRING
