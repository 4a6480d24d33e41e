"""Random ModelConfig messages, made from the protobuf's own description of its fields."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from enginepress.repository.proto import new_config

_TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12)


def _scalar(field: Any) -> st.SearchStrategy[Any]:
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values])
    bits = {field.CPPTYPE_INT32: 31, field.CPPTYPE_INT64: 63}
    naturals = {field.CPPTYPE_UINT32: 32, field.CPPTYPE_UINT64: 64}
    if field.cpp_type in bits:
        limit = 2 ** bits[field.cpp_type]
        return st.integers(-limit, limit - 1)
    if field.cpp_type in naturals:
        return st.integers(0, 2 ** naturals[field.cpp_type] - 1)
    if field.cpp_type == field.CPPTYPE_BOOL:
        return st.booleans()
    if field.cpp_type == field.CPPTYPE_FLOAT:
        return st.floats(width=32, allow_nan=False)
    if field.cpp_type == field.CPPTYPE_DOUBLE:
        return st.floats(allow_nan=False)
    return st.binary(max_size=8) if field.type == field.TYPE_BYTES else _TEXT


def _fill(draw: st.DrawFn, message: Any, depth: int) -> None:
    if not message.DESCRIPTOR.fields:
        return
    fields = draw(st.lists(st.sampled_from(list(message.DESCRIPTOR.fields)), unique=True, max_size=6 if depth else 8))
    for field in fields:
        container = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            value_field = field.message_type.fields_by_name["value"]
            keys = draw(st.lists(_scalar(field.message_type.fields_by_name["key"]), unique=True, max_size=2))
            for key in keys:
                if value_field.message_type is None:
                    container[key] = draw(_scalar(value_field))
                else:
                    _fill(draw, container[key], depth + 1)
        elif field.message_type is not None and hasattr(container, "add"):
            for _ in range(draw(st.integers(0, 2))):
                _fill(draw, container.add(), depth + 1)
        elif field.message_type is not None:
            container.SetInParent()
            _fill(draw, container, depth + 1)
        elif hasattr(container, "extend") and not isinstance(container, (str, bytes)):
            container.extend(draw(st.lists(_scalar(field), max_size=3)))
        else:
            setattr(message, field.name, draw(_scalar(field)))


@st.composite
def configs(draw: st.DrawFn) -> Any:
    config = new_config()
    _fill(draw, config, 0)
    return config
