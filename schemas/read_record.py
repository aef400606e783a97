"""Records from JSON: dataclasses read back from what `dataclasses.asdict` made of them."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, TypeVar

_Record = TypeVar("_Record")


def read_record(kind: type[_Record], value: object, *, written: bool = False) -> _Record:
    """Return the record of that kind; raises ValueError, one line, where value is none.

    Fields that the kind does not have are passed over. written: by a person, who may have meant
    something else by "3" than 3.
    """
    from pydantic import ValidationError

    try:
        if written:
            return _adapter(kind).validate_json(json.dumps(value), strict=True)  # type: ignore[arg-type]
        return _adapter(kind).validate_python(value)  # type: ignore[arg-type]
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        given = f" (it is {fault['input']!r})" if written else ""
        raise ValueError(f"{where or kind.__name__}: {fault['msg']}{given}") from error


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
