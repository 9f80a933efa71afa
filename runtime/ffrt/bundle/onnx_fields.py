"""The messages and fields of ONNX that a bundle may hold (onnx.proto of ONNX 1.19), as one table.

Left out on purpose, and so refused: model-local functions, training, sparse tensors, segments, references to a
function's attributes, types that are no tensors' and what spreads a model over devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types of protobuf; groups, 3 and 4, are older than ONNX."""


@dataclass(frozen=True)
class Field:
    """One field of a message: its name, whether it may come again, and the message that its bytes are."""

    name: str
    repeated: bool
    message: str | None


_ROWS = {
    "ModelProto": "1 ir_version int, 2 producer_name bytes, 3 producer_version bytes, 4 domain bytes,"
    " 5 model_version int, 6 doc_string bytes, 7 graph GraphProto, 8 opset_import OperatorSetIdProto*,"
    " 14 metadata_props StringStringEntryProto*",
    "OperatorSetIdProto": "1 domain bytes, 2 version int",
    "StringStringEntryProto": "1 key bytes, 2 value bytes",
    "GraphProto": "1 node NodeProto*, 2 name bytes, 5 initializer TensorProto*, 10 doc_string bytes,"
    " 11 input ValueInfoProto*, 12 output ValueInfoProto*, 13 value_info ValueInfoProto*,"
    " 14 quantization_annotation TensorAnnotation*, 16 metadata_props StringStringEntryProto*",
    "NodeProto": "1 input bytes*, 2 output bytes*, 3 name bytes, 4 op_type bytes, 5 attribute AttributeProto*,"
    " 6 doc_string bytes, 7 domain bytes, 8 overload bytes, 9 metadata_props StringStringEntryProto*",
    "AttributeProto": "1 name bytes, 2 f float, 3 i int, 4 s bytes, 5 t TensorProto, 6 g GraphProto, 7 floats float*,"
    " 8 ints int*, 9 strings bytes*, 10 tensors TensorProto*, 11 graphs GraphProto*, 13 doc_string bytes,"
    " 14 tp TypeProto, 15 type_protos TypeProto*, 20 type int",
    "TensorProto": "1 dims int*, 2 data_type int, 4 float_data float*, 5 int32_data int*, 6 string_data bytes*,"
    " 7 int64_data int*, 8 name bytes, 9 raw_data bytes, 10 double_data double*, 11 uint64_data int*,"
    " 12 doc_string bytes, 13 external_data bytes*, 14 data_location int,"
    " 16 metadata_props StringStringEntryProto*",
    "TensorAnnotation": "1 tensor_name bytes, 2 quant_parameter_tensor_names StringStringEntryProto*",
    "ValueInfoProto": "1 name bytes, 2 type TypeProto, 3 doc_string bytes, 4 metadata_props StringStringEntryProto*",
    "TypeProto": "1 tensor_type TypeProto.Tensor, 6 denotation bytes",
    "TypeProto.Tensor": "1 elem_type int, 2 shape TensorShapeProto",
    "TensorShapeProto": "1 dim TensorShapeProto.Dimension*",
    "TensorShapeProto.Dimension": "1 dim_value int, 2 dim_param bytes, 3 denotation bytes",
}
_WIRES = {"int": VARINT, "float": FIXED32, "double": FIXED64, "bytes": BYTES}


def _fields(rows: str) -> dict[int, Field]:
    """Fields by tag, which is the number and the wire type; repeated numbers come one by one or packed."""
    fields = {}
    for row in rows.split(","):
        number, name, kind = row.split()
        scalar = kind.rstrip("*")
        found = Field(name, kind.endswith("*"), None if scalar in _WIRES else scalar)
        wires = {_WIRES.get(scalar, BYTES)} | ({BYTES} if found.repeated else set())
        fields.update({int(number) << 3 | wire: found for wire in wires})
    return fields


MESSAGES: Mapping[str, Mapping[int, Field]] = {message: _fields(rows) for message, rows in _ROWS.items()}
"""Fields of a message by tag."""
