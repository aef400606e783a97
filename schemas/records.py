"""Records from JSON: dataclasses read back from what `dataclasses.asdict` made of them."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

_Record = TypeVar("_Record")


def read_record(kind: type[_Record], value: object) -> _Record:
    """Return the record of that kind; raises ValueError, one line, where value is none.

    Fields that the kind does not have are passed over.
    """
    from pydantic import ValidationError

    try:
        return _adapter(kind).validate_python(value)  # type: ignore[arg-type]
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise ValueError(f"{where or kind.__name__}: {fault['msg']}") from error


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
