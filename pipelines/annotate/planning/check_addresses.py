"""Whether a run may fetch anything of what its posts name: else every image is missing."""

from __future__ import annotations

from pipelines.annotate.fetch.addresses import AllowedPlaces
from pipelines.annotate.job import Plan
from pipelines.posts.input_files import CorruptInputError, InputFile, RowRange
from pipelines.posts.inputs import read_footer
from pipelines.posts.reading import read_unit_rows
from pipelines.storage.backends import open_url
from schemas.errors import SchemaError, UsageError
from schemas.posts import check_posts_schema

_FILES = 3
_POSTS = 64


def check_addresses(plan: Plan) -> None:
    """Raise UsageError where the first posts have addresses for images, and none is allowed.

    Every image would be missing then, for a reason that no post has to do with.
    """
    todo = {shard.source_file for unit in plan.units for shard in unit.shards}
    allowed = AllowedPlaces(plan.options.rows.image_uri_prefixes)
    addresses = 0
    column = "image_uri"
    for file in [file for file in plan.files if file.source_file in todo and file.rows][:_FILES]:
        found = _first_addresses(file, plan)
        if found is None:
            return
        column, uris = found
        addresses += len(uris)
        if any(allowed.find(uri) is not None for uri in uris):
            return
    if addresses:
        raise UsageError(
            f"{column} holds {addresses} addresses in the first posts, no prefix allows one: name "
            "where images may be fetched with --image-uri-prefix https://HOST/FOLDER (or "
            "--image-folder for paths); --image-uri-prefix none to annotate without them"
        )


def _first_addresses(file: InputFile, plan: Plan) -> tuple[str, list[str]] | None:
    """The column and addresses of a file's first posts; None where some image came along."""
    options = plan.options.rows
    fs, path = open_url(file.path)
    first = next(i for i, group in enumerate(file.row_groups) if group.rows)
    rows = min(_POSTS, file.row_groups[first].rows)
    wanted = RowRange(file.source_file, 0, rows, (first,))
    try:
        schema = read_footer(fs, path, columns=options.columns).schema
        layout = check_posts_schema(schema, options.columns, (), file.source_file)
        if layout.columns.image_uri is None and layout.columns.image is None:
            return None
        uris: list[str] = []
        for _, _, posts in read_unit_rows(fs, path, [wanted], layout, schema=schema):
            if posts.column("image").null_count < len(posts):
                return None
            uris += [uri for uri in posts.column("image_uri").to_pylist() if uri]
    except (CorruptInputError, SchemaError):
        # Which the run will tell.
        return None
    return layout.columns.image_uri or str(layout.columns.image), uris
