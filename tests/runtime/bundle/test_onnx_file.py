"""A graph file is judged before an engine opens it: what it may hold, where its weights lie, and damage."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

from ffrt import BundleError
from ffrt.bundle import find_bundle
from ffrt.bundle.onnx_file import MAX_DEPTH, MAX_NODES, check_graph
from ffrt.stages.device_loop import UPDATE

PATH = Path("g.onnx")
WEIGHTS = {"g.safetensors": 100, "h.safetensors": 1000}


def external(name: str = "w", location: str = "g.safetensors", offset: str = "52", length: str = "48") -> TensorProto:
    """float32 [3, 4] in the last 48 bytes of the weights."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[3, 4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=value)
    return tensor


def model(*tensors: TensorProto) -> ModelProto:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, "n"])
    nodes = [helper.make_node("Identity", ["x"], ["y"], name="same")]
    graph = helper.make_graph(nodes, "g", [value], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    graph.initializer.extend(tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def check(built: ModelProto | bytes) -> tuple[str, ...]:
    return check_graph(PATH, built if isinstance(built, bytes) else built.SerializeToString(), WEIGHTS).weights


def test_the_files_that_hold_weights_are_named_once() -> None:
    tensors = [external("a"), external("b", "h.safetensors"), external("c")]
    assert check(model(*tensors)) == ("g.safetensors", "h.safetensors")
    assert check(model()) == ()


def test_every_graph_that_is_shipped_passes() -> None:
    folder = find_bundle("demo")
    weights = {path.name: path.stat().st_size for path in folder.glob("*.safetensors")}
    for path in folder.glob("*.onnx"):
        assert check_graph(path, path.read_bytes(), weights).weights == (path.with_suffix(".safetensors").name,)
    assert check_graph(UPDATE, UPDATE.read_bytes(), {}).weights == ()


def test_constants_of_every_dtype_pass() -> None:
    kinds = ["float32", "float16", "float64", "int8", "uint8", "int32", "int64", "bool", "complex64"]
    tensors = [numpy_helper.from_array(np.zeros((2, 3), kind), kind) for kind in kinds]
    tensors += [
        numpy_helper.from_array(np.zeros((0, 3), "float32"), "none"),
        helper.make_tensor("s", 8, [1], [b"text"]),
    ]
    tensors += [helper.make_tensor(str(kind), kind, [3], [1, 0, 1]) for kind in (1, 2, 5, 6, 7, 10, 11, 13, 16, 17, 22)]
    check(model(*tensors))


def test_raw_data_has_the_bits_of_its_dtype() -> None:
    """As ONNX says: half bytes are filled up at the end."""
    bits = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128}
    bits |= {16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2}
    for dtype, size in bits.items():
        for count in (0, 1, 5, 8):
            need = -(-count * size // 8)
            check(model(TensorProto(name="w", data_type=dtype, dims=[count], raw_data=bytes(need))))
            with pytest.raises(BundleError, match=f"the {count} elements that its sizes say"):
                check(model(TensorProto(name="w", data_type=dtype, dims=[count], raw_data=bytes(need + 1))))


def test_numbers_may_come_one_by_one() -> None:
    """Fixed-width fields that are not packed: a double is 8 bytes behind its tag, a float 4."""
    doubles = b"".join(b"\x51" + bytes(8) for _ in range(3))  # field 10, 64 bits
    floats = b"".join(b"\x25" + bytes(4) for _ in range(3))  # field 4, 32 bits
    for dtype, values in ((11, doubles), (1, floats)):
        tensor = b"\x08\x03" + bytes([0x10, dtype]) + values  # dims [3], data_type
        check(field(7, field(5, tensor)))
        with pytest.raises(BundleError):
            check(field(7, field(5, tensor[:-1])))


def test_the_first_operator_set_passes() -> None:
    built = model()
    built.opset_import.add(domain="ai.onnx.ml", version=1)
    built.opset_import.add(domain="com.microsoft", version=1000)
    check(built)


def in_attribute(built: ModelProto) -> None:
    built.graph.node[0].attribute.append(helper.make_attribute("value", external(location="/etc/passwd")))


def in_attribute_list(built: ModelProto) -> None:
    attribute = AttributeProto(name="values", type=AttributeProto.TENSORS, tensors=[external(location="/etc/passwd")])
    built.graph.node[0].attribute.append(attribute)


def in_subgraph(built: ModelProto) -> None:
    inner = helper.make_graph([], "inner", [], [], initializer=[external(location="/etc/passwd")])
    built.graph.node[0].attribute.append(helper.make_attribute("then_branch", inner))


def in_subgraphs(built: ModelProto) -> None:
    inner = helper.make_graph([], "inner", [], [], initializer=[external(location="/etc/passwd")])
    attribute = AttributeProto(name="bodies", type=AttributeProto.GRAPHS, graphs=[inner])
    built.graph.node[0].attribute.append(attribute)


def deep(built: ModelProto) -> None:
    inner = helper.make_graph([], "inner", [], [])
    for _ in range(MAX_DEPTH // 3 + 1):
        node = helper.make_node("If", ["x"], ["y"])
        node.attribute.append(helper.make_attribute("then_branch", inner))
        inner = helper.make_graph([node], "inner", [], [])
    built.graph.node[0].attribute.append(helper.make_attribute("then_branch", inner))


def sparse(built: ModelProto) -> None:
    built.graph.sparse_initializer.add().values.CopyFrom(external())


def doubling(built: ModelProto) -> None:
    """Functions of which each calls the one before twice."""
    for level in range(30):
        nodes = [helper.make_node(f"f{level}", ["a"], ["b"], domain="own")] * 2
        built.functions.append(helper.make_function("own", f"f{level + 1}", ["a"], ["b"], nodes, []))


def tensor(change: Callable[[TensorProto], object], **arguments: str) -> Callable[[ModelProto], None]:
    """Add a tensor with external data, changed."""

    def add(built: ModelProto) -> None:
        one = external(**arguments)
        change(one)
        built.graph.initializer.append(one)

    return add


def placed(**arguments: str) -> Callable[[ModelProto], None]:
    return tensor(lambda one: None, **arguments)


def of_domain(domain: str, op_type: str = "Identity") -> Callable[[ModelProto], None]:
    def change(built: ModelProto) -> None:
        built.graph.node[0].domain, built.graph.node[0].op_type = domain, op_type

    return change


def operator_set(version: int | None) -> Callable[[ModelProto], object]:
    return lambda built: built.opset_import.add(domain="com.microsoft", version=version)


def constant(**fields: object) -> Callable[[ModelProto], None]:
    return lambda built: built.graph.initializer.append(TensorProto(name="c", **fields))


UNKNOWN = "field of ModelProto that bundles use"
REFUSED: dict[str, tuple[Callable[[ModelProto], object], list[str]]] = {
    "absolute path": (placed(location="/etc/passwd"), ["tensor 'w'", "one of ['g.safetensors',", "'/etc/passwd'"]),
    "climbing path": (placed(location="../g.safetensors"), ["'../g.safetensors'"]),
    "same file by another path": (placed(location="./g.safetensors"), ["'./g.safetensors'"]),
    "memory": (placed(location="*/_ORT_MEM_ADDR_/*", offset="4096"), ["'*/_ORT_MEM_ADDR_/*'"]),
    "not listed": (placed(location="x.safetensors"), ["'x.safetensors'"]),
    "no location": (tensor(lambda one: one.external_data.pop(0)), ["each of ['location', 'offset', 'length']"]),
    "no length": (tensor(lambda one: one.external_data.pop()), ["got ['location', 'offset']"]),
    "location twice": (
        tensor(lambda one: one.external_data.add(key="location", value="/etc/passwd")),
        ["each of ['location', 'offset', 'length'] once", "got ['location']"],
    ),
    "unknown key": (tensor(lambda one: one.external_data.add(key="basepath", value="/")), ["got ['basepath']"]),
    "behind the end": (placed(offset="53"), ["48 bytes inside g.safetensors, which has 100", "48 from byte 53"]),
    "far behind the end": (placed(offset="9" * 18), ["from byte 999999999999999999"]),
    "longer than any file": (placed(offset="1" * 19), ["whole numbers as offset and length"]),
    "below the file": (placed(offset="-48"), ["whole numbers", "'-48'"]),
    "spelt with a sign": (placed(offset="+52"), ["whole numbers", "'+52'"]),
    "hexadecimal": (placed(offset="0x34"), ["whole numbers", "'0x34'"]),
    "no number": (placed(offset=""), ["whole numbers", "['', '48']"]),
    "other length": (placed(length="47"), ["48 bytes inside", "47 from byte 52"]),
    "more elements": (tensor(lambda one: one.dims.append(1 << 39)), ["bytes inside g.safetensors"]),
    "negative size": (tensor(lambda one: one.dims.append(-1)), ["sizes up to 1099511627776"]),
    "many axes": (tensor(lambda one: one.dims.extend([1] * 31)), ["at most 32 sizes"]),
    "two places": (tensor(lambda one: one.MergeFrom(TensorProto(raw_data=b"1" * 48))), ["one place for its data"]),
    "inline with a place": (
        tensor(lambda one: one.ClearField("data_location")),
        ["one place for its data", "data_location 0 and 3 entries"],
    ),
    "no dtype": (tensor(lambda one: one.ClearField("data_type")), ["a dtype that ONNX has", "got 0"]),
    "other dtype": (tensor(lambda one: one.MergeFrom(TensorProto(data_type=99))), ["a dtype", "99"]),
    "text in a file": (tensor(lambda one: one.MergeFrom(TensorProto(data_type=8))), ["0 bytes inside"]),
    "in an attribute": (in_attribute, ["'/etc/passwd'"]),
    "in a list of tensors": (in_attribute_list, ["'/etc/passwd'"]),
    "in a subgraph": (in_subgraph, ["'/etc/passwd'"]),
    "in a list of subgraphs": (in_subgraphs, ["'/etc/passwd'"]),
    "segment": (tensor(lambda one: one.segment.MergeFrom(TensorProto.Segment(begin=0))), ["got number 3"]),
    "sparse": (sparse, ["field of GraphProto that bundles use", "number 15"]),
    "deep subgraphs": (deep, [f"at most {MAX_DEPTH} messages within each other"]),
    "functions": (doubling, [UNKNOWN, "number 25"]),
    "training": (lambda built: built.training_info.add(), [UNKNOWN, "number 20"]),
    "reference to a function": (
        lambda built: built.graph.node[0].attribute.add(name="a", ref_attr_name="b"),
        ["field of AttributeProto", "number 21"],
    ),
    "endless operator sets": (operator_set(1 << 40), ["an operator set from 1 to 1000", str(1 << 40)]),
    "operator set below 0": (operator_set(-1), ["an operator set", str((1 << 64) - 1)]),
    "operator set without a number": (operator_set(None), ["an operator set", "got 0"]),
    "operator of a library": (of_domain("evil"), ["an operator of ['', 'ai.onnx'", "b'evil'"]),
    "compiled blob": (of_domain("com.microsoft", "EPContext"), ["runs nothing from elsewhere", "EPContext"]),
    "raw data too short": (constant(dims=[4], data_type=1, raw_data=b"1" * 15), ["the 4 elements", "15 bytes"]),
    "raw data too long": (constant(dims=[4], data_type=1, raw_data=b"1" * 17), ["the 4 elements", "17 bytes"]),
    "no data": (constant(dims=[1 << 30], data_type=1), ["the 1073741824 elements", "0 bytes"]),
    "few data": (constant(dims=[1 << 30], data_type=7, int64_data=[1, 2]), ["the 1073741824 elements", "2 bytes"]),
    "two kinds of data": (constant(dims=[], data_type=1, float_data=[1], raw_data=b"1234"), ["one place"]),
    "no graph": (lambda built: built.ClearField("graph"), ["expected a graph, got a file without one"]),
    "many nodes": (
        lambda built: built.graph.node.extend([onnx.NodeProto()] * MAX_NODES),
        [f"expected at most {MAX_NODES} nodes"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_bundle_has_no_use_for_is_refused(case: str) -> None:
    change, words = REFUSED[case]
    built = model(external("first"))
    change(built)
    with pytest.raises(BundleError) as caught:
        check(built)
    for word in ["g.onnx, ", "byte ", *words]:
        assert word in str(caught.value)


def field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, len(content) & 0x7F | 0x80, len(content) >> 7]) + content


WHOLE = model().SerializeToString()
BYTES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "expected a graph, got a file without one"),
    "two graphs": (WHOLE + field(7, b""), "expected field 7 of ModelProto once, got it twice"),
    "group": (WHOLE + b"\x0b\x0c", "number 1 of wire type 3"),
    "number for a text": (WHOLE + b"\x10\x01", "number 2 of wire type 0"),
    "field 0": (WHOLE + b"\x00\x00", "number 0 of wire type 0"),
    "long tag": (WHOLE + b"\x88\x80\x00\x01", "number 2049"),
    "endless number": (WHOLE + b"\x28" + b"\x80" * 12, "a number of at most 10 bytes"),
    "cut in a tag": (WHOLE + b"\xf2", "a whole file, got one that ends in the middle of a field"),
    "cut in a length": (WHOLE + b"\x32\x80", "a whole file"),
    "longer than the file": (WHOLE + b"\x32\x05abc", f"ModelProto that ends at byte {len(WHOLE) + 5}"),
    "longer than its message": (field(7, b"\x12\x05abc") + b"\x28\x01" * 9, "GraphProto that ends at byte 8"),
    "tensor given twice": (
        field(7, field(1, field(5, 2 * field(5, external().SerializeToString())))),
        "expected field 5 of AttributeProto once, got it twice",
    ),
}


@pytest.mark.parametrize("case", BYTES)
def test_broken_protobuf_is_refused(case: str) -> None:
    data, words = BYTES[case]
    with pytest.raises(BundleError) as caught:
        check(data)
    assert words in str(caught.value) and "get the bundle again" in str(caught.value)


def test_every_cut_of_a_graph_is_refused_or_whole_in_itself() -> None:
    whole = model(external(), numpy_helper.from_array(np.arange(3), "c")).SerializeToString()
    cuts = 0
    for end in range(len(whole)):
        try:
            check(whole[:end])
        except BundleError:
            cuts += 1
    assert cuts >= len(whole) - 3  # protobuf has no end mark: a file may end behind any field of the model


def test_a_mutated_graph_is_refused_or_names_nothing_but_weights() -> None:
    """Whatever passes, protobuf reads as a graph whose external data lie in the listed files."""
    rng = random.Random(0)
    whole = model(external("a"), external("b", "h.safetensors"), numpy_helper.from_array(np.arange(3), "c"))
    raw = whole.SerializeToString()
    passed = 0
    for _ in range(600):
        data = bytearray(raw)
        for _ in range(rng.choice((1, 1, 2, 4))):
            at, kind = rng.randrange(len(data)), rng.randrange(3)
            if kind == 0:
                data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, data[at] ^ 1 << rng.randrange(8)))
            elif kind == 1:
                del data[at : at + rng.randrange(1, 9)]
            else:
                data[at:at] = data[rng.randrange(len(data)) :][: rng.randrange(1, 9)]
        try:
            named = check(bytes(data))
        except BundleError:
            continue
        passed += 1
        read = onnx.load_from_string(bytes(data))
        locations = {e.value for t in read.graph.initializer for e in t.external_data if e.key == "location"}
        assert locations == set(named) <= set(WEIGHTS)
    assert 0 < passed < 400
