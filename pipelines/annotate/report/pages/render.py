"""The report as a page: a pure function from its JSON value to one self-contained HTML file."""

from __future__ import annotations

import base64
import functools
import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
from markupsafe import Markup, escape

from pipelines.annotate.report.pages import svg
from pipelines.annotate.report.significance import (
    ALARM_RATE,
    EXPECTED_BELOW,
    NIGHTS_PER_FALSE_ALARM,
)
from pipelines.annotate.report.verdict import (
    FAILED,
    HELD_BACK,
    LOOK,
    PUBLISHED,
    measure_name,
    percent,
)
from schemas.annotations import MODALITIES

_KINDS = {PUBLISHED: "good", LOOK: "look", HELD_BACK: "held", FAILED: "failed"}

# Characters that change how the text around them is shown, or nothing that one could see.
_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
_KEPT = "\n"

# Joiners belong to emoji and to scripts such as Persian; they turn nothing around.
_HARMLESS = "\u200c\u200d"


def render_report(report: Mapping[str, Any]) -> str:
    """Return the page of a report (build.build_report). It holds no script and loads nothing."""
    likeness = report["likeness"]
    return _render(
        "report.html.j2",
        report=report,
        kind=_KINDS[report["verdict"]["word"]],
        night=report["night"],
        modalities=[m for m in MODALITIES if m in likeness],
        rate=ALARM_RATE,
        expected_below=EXPECTED_BELOW,
        nights_per_alarm=NIGHTS_PER_FALSE_ALARM,
        most_change=_scale(report["changes"]),
    )


def render_index(output: str, runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the page that lists an output's runs, the latest first."""
    return _render("index.html.j2", output=output, runs=runs, kinds=_KINDS, kind="plain")


def render_gallery(gallery: Mapping[str, Any]) -> str:
    """Return the page of posts with their pictures (gallery.make_gallery)."""
    return _render("gallery.html.j2", gallery=gallery, kind="plain")


def _scale(changes: list[dict[str, Any]]) -> float:
    values = [v for c in changes for v in (c["value"], c["before"], c["median"]) if v is not None]
    return max([0.01, *values])


def _render(template: str, **values: Any) -> str:
    environment = _environment()
    style = Markup(environment.loader.get_source(environment, "style.css")[0])  # type: ignore[union-attr]
    # The one style sheet is allowed by its hash, so that no other style can be slipped in.
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return environment.get_template(template).render(style=style, policy=policy, **values)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipelines.annotate.report.pages"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals["svg"] = svg
    environment.filters |= {
        "shown": shown,
        "plain": plain,
        "percent": percent,
        "points": lambda share: f"{100 * share:+.1f}".replace("-", "−"),
        "logits": lambda value: f"{round(value, 2) + 0.0:+.2f}".replace("-", "−"),
        "count": lambda number: f"{number:,}",
        "of": lambda number, what: f"{number:,} {what}{'' if number == 1 else 's'}",
        "words": lambda name: name.replace("_", " "),
        "duration": duration,
        "measure": measure_name,
        "moment": _moment,
    }
    return environment


def shown(text: object, most: int = 160) -> Markup:
    """A text of unknown origin: escaped, kept apart from the direction of what is around it.

    Control characters and those that turn the direction are shown by their numbers; a text
    that is longer than `most` characters is cut.
    """
    return Markup("<bdi>{}</bdi>{}").format(*_visible(str(text), most))


def plain(text: object, most: int = 80) -> str:
    """The same where no tag may stand."""
    return "".join(_visible(str(text), most))


def _visible(whole: str, most: int) -> tuple[str, str]:
    visible = "".join(
        f"\\u{{{ord(c):x}}}"
        if unicodedata.category(c) in _UNSEEN and c not in _KEPT + _HARMLESS
        else c
        for c in whole[:most]
    )
    return visible, f"… ({len(whole):,} characters)" if len(whole) > most else ""


def duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _moment(text: str) -> Markup:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return escape(text)
    return Markup('<time datetime="{:%Y-%m-%dT%H:%MZ}">{:%Y-%m-%d %H:%M} UTC</time>').format(
        moment, moment
    )
