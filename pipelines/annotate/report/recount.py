"""SQL (DuckDB's) that counts again, from the published parts, every number of a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from schemas.annotations import MODALITIES

# The two names that statements refer to.
_VIEW = (
    "CREATE OR REPLACE VIEW {name} AS\nSELECT * FROM read_parquet({places}, union_by_name = true)"
)
_PLACES = (
    "SET VARIABLE {name} = (\n"
    "  SELECT list_transform(places.{name}, lambda place: {root} || place)\n"
    "  FROM read_json({report}, maximum_object_size = 1000000000));\n"
)
_MOST_PLACES = 12


def sql_of_night(
    output: str,
    places: Sequence[str],
    run_id: str,
    lost: Sequence[str],
    whole: bool,
    damage: bool,
    groups: Sequence[str],
) -> dict[str, str]:
    """Return statements by the figure that they recount; "posts" comes first.

    places, lost: of the night's annotations and dead letters below the output. whole: whether
    they hold nothing else; otherwise the manifest of the run says which files count. damage:
    whether the rows name it.
    """
    counted = "" if whole else f"\n{_only_files_of(output, run_id)}"
    found = {
        "posts": _view("posts", output, run_id, places) + counted,
        "label": "SELECT label, count(*) AS posts, count(*) / sum(count(*)) OVER () AS share\n"
        "FROM posts GROUP BY label ORDER BY label",
        "evidence": "SELECT label, count(*) AS posts, avg(text_evidence::DOUBLE) AS text,\n"
        "  avg(image_evidence::DOUBLE) AS image,\n"
        "  avg((text_evidence > image_evidence)::INT) AS by_text,\n"
        "  avg((text_evidence::DOUBLE * image_evidence < 0)::INT) AS opposed\n"
        "FROM posts GROUP BY label ORDER BY posts DESC, label",
        "confidence": "SELECT avg(confidence::DOUBLE) AS mean FROM posts",
        "trust": _union(
            f"SELECT '{column}' AS what, {column} AS value, count(*) AS posts, "
            "avg(confidence::DOUBLE) AS expected FROM posts GROUP BY value"
            for column in ("label", *(f"{m}_state" for m in MODALITIES))
        ),
    }
    if lost:
        found["dead_letters"] = (
            f"{_view('lost', output, run_id, lost)}{counted};\n"
            "SELECT reason, count(*) AS posts FROM lost GROUP BY reason ORDER BY reason"
        )
    for m in MODALITIES:
        found[f"{m}_state"] = (
            f"SELECT {m}_state AS state, count(*) AS posts FROM posts GROUP BY state ORDER BY state"
        )
        found[f"{m}_reason"] = (
            f"SELECT {m}_reason AS reason, count(*) AS posts FROM posts\n"
            f"WHERE {m}_reason IS NOT NULL GROUP BY reason ORDER BY reason"
        )
        found[f"{m}_quality"] = (
            f"SELECT {_bin(m)} AS bin, count(*) AS posts FROM posts\n"
            f"WHERE {m}_state <> 'recovered' GROUP BY bin ORDER BY bin"
        )
        if damage:
            found[f"{m}_damage"] = (
                f"SELECT {m}_damage AS damage, count(*) AS posts FROM posts\n"
                f"WHERE {m}_damage IS NOT NULL GROUP BY damage ORDER BY damage"
            )
    for column in groups:
        below = ",\n  ".join(
            f"avg(({_bin(m)} = 0)::INT) FILTER (WHERE {m}_state <> 'recovered') AS {m}_below"
            for m in MODALITIES
        )
        found[f"group {column}"] = (
            f"SELECT {_name(column)} AS value, count(*) AS posts,\n  {below},\n"
            "  avg(confidence::DOUBLE) AS confidence\n"
            "FROM posts GROUP BY value ORDER BY posts DESC"
        )
    return found


def _view(name: str, output: str, run_id: str, places: Sequence[str]) -> str:
    if len(places) > _MOST_PLACES:
        # No common glob: beside these lie parts of other nights, and of attempts before.
        return _PLACES.format(
            name=name,
            report=_text(f"{output}/_runs/{run_id}/report.json"),
            root=_text(f"{output}/"),
        ) + _VIEW.format(name=name, places=f"getvariable('{name}')")
    listed = ", ".join(_text(f"{output}/{place}") for place in places)
    return _VIEW.format(name=name, places=f"[{listed}]")


def _only_files_of(output: str, run_id: str) -> str:
    manifest = _text(f"{output}/_runs/{run_id}/manifest.json")
    return (
        "WHERE source_file IN (\n"
        "  SELECT file.source_file FROM (\n"
        f"    SELECT unnest(files) AS file FROM read_json({manifest}, maximum_object_size = "
        "1000000000)\n"
        "  ) WHERE file.status = 'published')"
    )


def _bin(modality: str) -> str:
    return f"least(floor({modality}_quality::DOUBLE * 20), 19)::INT"


def _union(selects: Iterable[str]) -> str:
    return "\nUNION ALL\n".join(selects) + "\nORDER BY what, value"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _name(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'
