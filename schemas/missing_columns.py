"""What all files of a corpus lack, told once, with the option that would mend it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

import pyarrow as pa

from schemas.posts import PostColumns, fits_role

# What exports call them, without case and punctuation; the likelier first.
_NAMES = {
    "post_id": ("id", "tweetid", "statusid", "messageid", "docid", "uid", "uuid", "key"),
    "text": ("fulltext", "body", "content", "tweet", "message", "caption", "comment", "review"),
    "image": ("img", "picture", "photo", "jpeg", "thumbnail", "media"),
    "image_uri": ("imageurl", "photourl", "mediaurl", "pictureurl", "url", "imagepath", "path"),
}

_ADDRESS = re.compile(r"ur[li]|link|href|path|file", re.IGNORECASE)


def describe_missing(schemas: Sequence[pa.Schema], columns: PostColumns) -> str | None:
    """Which columns of posts every one of these files lacks, as one sentence; None if none."""
    missing = [role for role in ("post_id", "text") if _lacked(schemas, getattr(columns, role))]
    images = [name for name in (columns.image, columns.image_uri) if name is not None]
    if columns.image is not None and all(_lacked(schemas, name) for name in images):
        missing.append("image")
    if not missing:
        return None
    first = schemas[0]
    options = [_option(first, role, columns) for role in missing]
    names = [str(getattr(columns, role)) for role in missing]
    listed = ", ".join(names[:-1]) + " and " * (len(names) > 1) + names[-1]
    files = f"{len(schemas)} of {len(schemas)} files lack" if len(schemas) > 1 else "the file lacks"
    shown = ", ".join(first.names[:12]) + f" and {len(first.names) - 12} more" * (
        len(first.names) > 12
    )
    have = "they have" if len(schemas) > 1 else "it has"
    return f"{files} {listed}; {have} {shown or 'no columns'}; say {' '.join(options)}"


def _lacked(schemas: Sequence[pa.Schema], name: str | None) -> bool:
    return name is not None and not any(name in schema.names for schema in schemas)


def _option(schema: pa.Schema, role: str, columns: PostColumns) -> str:
    used = {getattr(columns, other) for other in _NAMES}
    roles = ("image", "image_uri") if role == "image" else (role,)
    for one in roles:
        fitting = {
            re.sub(r"[\W_]", "", field.name).lower().removesuffix("s"): field.name
            for field in schema
            if field.name not in used
            and fits_role(field.type, one)
            and not (one == "image" and _ADDRESS.search(field.name))
        }
        known = [name for name in (one.replace("_", ""), *_NAMES[one]) if name in fitting]
        if close := known or difflib.get_close_matches(one.replace("_", ""), fitting, n=1):
            return f"--column {one}={_quoted(fitting[close[0]])}"
    return "--column image=" if role == "image" else f"--column {role}=NAME"


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[\w.-]+", name) else f"'{name}'"
