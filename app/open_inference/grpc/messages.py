"""The messages of the protocol, from `inference.proto`, compiled to a descriptor set; no generated code.

They are in a descriptor pool of their own: a process may also import `tritonclient`, which registers the
same names in protobuf's default pool.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SOURCE = Path(__file__).with_name("inference.proto")
COMPILED = SOURCE.with_suffix(".binpb")  # a FileDescriptorSet, by `make messages`

pool = descriptor_pool.DescriptorPool()
for _file in descriptor_pb2.FileDescriptorSet.FromString(COMPILED.read_bytes()).file:
    pool.Add(_file)


def message(name: str) -> Any:
    """The class of a message; that of a message within another is `Outer.Inner`."""
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
