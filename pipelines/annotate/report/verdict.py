"""The first thing a report says: one word, one sentence, and the command to type next."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.annotate.report.nights import Night
from pipelines.annotate.report.significance import EXPECTED_BELOW, NIGHTS_PER_FALSE_ALARM
from schemas.annotations import MODALITIES
from schemas.exit_codes import ExitCode
from schemas.manifest import Manifest

PUBLISHED, LOOK, HELD_BACK, FAILED = "Published", "Worth a look", "Held back", "Failed"

_MODALITY_NAMES = {"text": "texts", "image": "images"}

# By the limit that was passed.
_WHY_HELD_BACK = {
    "--max-dead-letter-share": "too many of its posts could not be annotated",
    "--max-fetch-failed-share": "the host of too many images did not give them",
    "--max-recovered-share": "too many of its posts lack a text or an image",
    "--max-low-quality-share": "too many of its texts or images are of low quality",
    "--max-label-shift": "its labels moved against the nights before",
}

# Findings in the sentence; the others stand in the list below it.
_MOST_FINDINGS = 2


def judge(
    manifest: Manifest,
    night: Night | None,
    changes: Sequence[Mapping[str, Any]],
    likeness: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Return word, sentence, exit_code and findings, one line each.

    night: what the report is about, None where there is nothing. changes, likeness: what was
    compared (compare.py).
    """
    found = findings(changes, likeness)
    word = _word(manifest, found)
    if word == FAILED:
        sentence = _failed(manifest)
    elif word == HELD_BACK:
        sentence = _held_back(manifest)
    else:
        sentence = _published(manifest, night, found)
    return {
        "word": word,
        "sentence": sentence,
        "exit_code": int(manifest.exit_code),
        "findings": found,
    }


def findings(
    changes: Sequence[Mapping[str, Any]], likeness: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """What calls for attention, the clearest first."""
    found = []
    for m in MODALITIES:
        said = likeness.get(m)
        if said and said["stranger"]:
            found.append(
                f"{_MODALITY_NAMES[m]} are stranger than those the model knows: "
                f"{percent(said['share'])} have a quality below {EXPECTED_BELOW:g}, where "
                f"{percent(EXPECTED_BELOW)} are expected"
            )
        elif said and said["lower"]:
            found.append(
                f"{_MODALITY_NAMES[m]} are less ordinary than those the model knows: half of them "
                f"have a quality below {said['median']:.2f}, where 0.50 is expected"
            )
        if said and said["drifts"]:
            found.append(
                f"{_MODALITY_NAMES[m]} drift over the nights (the chart errs once in "
                f"{NIGHTS_PER_FALSE_ALARM} nights)"
            )
    for change in changes:
        if change["matters"]:
            found.append(
                f"{measure_name(change)} went from {percent(change['before'])} to "
                f"{percent(change['value'])}"
            )
    return found


def measure_name(change: Mapping[str, Any]) -> str:
    """What a record of changes is about, in words."""
    group, name = change["group"], change["name"]
    if group == "confidence":
        return "mean confidence"
    if group == "dead letters":
        return "dead letters" if name == "all" else f"dead letters, {name.replace('_', ' ')}"
    name = name.replace("_", " ")
    modality, _, kind = group.partition(" ")
    if group == "label":
        return f"posts labelled {name}"
    if kind == "reason":
        return f"{_MODALITY_NAMES[modality]} {name}"
    if kind == "damage":
        return f"{_MODALITY_NAMES[modality]} that look {name}"
    return f"{_MODALITY_NAMES[modality]} {name}"


def percent(share: float) -> str:
    """A share as people read it: 4.7 %."""
    return f"{100 * share:.1f} %"


def _word(manifest: Manifest, found: Sequence[str]) -> str:
    if manifest.exit_code == ExitCode.HELD_BACK:
        return HELD_BACK
    if manifest.exit_code:
        return FAILED
    return LOOK if found else PUBLISHED


def _published(manifest: Manifest, night: Night | None, found: Sequence[str]) -> str:
    totals = manifest.totals
    if night is None:
        return "There was nothing to annotate."
    one = night.annotations == 1
    posts = f"{night.annotations:,} post{'' if one else 's'} of {night.name}"
    published = any(file.status == "published" for file in manifest.files)
    what = (
        f"{posts} {'is' if one else 'are'} published"
        if published
        else f"Nothing was left to do: all {totals.annotations:,} posts were published before"
    )
    if not found:
        return f"{what}; nothing stands out." if published else f"{what}."
    more = len(found) - _MOST_FINDINGS
    listed = "; ".join(found[:_MOST_FINDINGS])
    return f"{what}, but {listed}{f'; and {more} more' if more > 0 else ''}."


def _held_back(manifest: Manifest) -> str:
    names = sorted(name for name, status in manifest.partitions.items() if status == "held_back")
    what = _listed([name or "The night" for name in names])
    passed = set(re.findall("more than (--max-[a-z-]+)", " ".join(manifest.warnings)))
    whys = [why for option, why in _WHY_HELD_BACK.items() if option in passed]
    why = " and ".join(whys) or "a file failed and --strict was given"
    were = "was" if len(names) == 1 else "were"
    return f"{what} {were} held back: {why}. Readers see what they saw before."


def _failed(manifest: Manifest) -> str:
    failed = [file for file in manifest.files if file.status == "failed"]
    if not failed:
        reason = next((w for w in manifest.warnings if w.startswith("partition ")), "")
        return f"The run did not finish{f': {reason}' if reason else '.'}"
    files = len(manifest.files)
    kept = sum(file.annotations for file in failed if file.earlier)
    others = manifest.totals.files
    rest = (
        "nothing else was published"
        if not others
        else f"the other {others} {'is' if others == 1 else 'are'} published"
    )
    earlier = f" Its {kept:,} earlier rows stay." if kept else ""
    return (
        f"{len(failed)} of {files} file{'' if files == 1 else 's'} could not be annotated; "
        f"{rest}.{earlier}"
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def next_commands(
    word: str, manifest: Manifest, output: str, held_back: Sequence[Mapping[str, Any]]
) -> list[dict[str, str]]:
    """What to type next, with the run's own options, and when."""
    again = run_words(manifest, output)
    found = []
    if word == FAILED:
        why = "When the files are mended, the same command goes on from what is done:"
        if not any(file.status == "failed" for file in manifest.files):
            why = "The same command goes on from what was committed:"
        found.append({"why": why, "command": shlex.join(again)})
    elif word == HELD_BACK:
        limits: dict[str, float] = {}
        for one in held_back:
            if one["option"]:
                limits[one["option"]] = max(one["share"], limits.get(one["option"], 0.0))
        if "--max-fetch-failed-share" in limits:
            retry = [*without(again, "--retry"), "--retry", "fetch_failed"]
            why = "When the host is back, this asks for its images again:"
            found.append({"why": why, "command": shlex.join(retry)})
        if limits:
            command = again
            for option, share in limits.items():
                least = min(math.ceil(100 * share + 1e-9) / 100, 1.0)
                command = [*without(command, option), option, f"{least:g}"]
            found.append(
                {
                    "why": "If what is told below is right, this publishes the night; nothing is "
                    "computed twice within 7 days:",
                    "command": shlex.join(command),
                }
            )
        else:
            found.append({"why": "When the failed file is mended:", "command": shlex.join(again)})
    elif word == LOOK:
        run = shlex.join(["drf", "report", output, "--run", manifest.run_id, "--gallery", "24"])
        found.append({"why": "See the posts behind it, with their pictures:", "command": run})
    else:
        run = shlex.join(["drf", "runs", output])
        found.append({"why": "Nothing needs doing. All runs of this output:", "command": run})
    return found


def run_words(manifest: Manifest, output: str) -> list[str]:
    """The command that repeats a run, less its id."""
    words = manifest.options.get("command", ["drf", "annotate", "--output", output])
    return without(without([str(word) for word in words], "--run-id"), "--metrics")


def without(words: Sequence[str], option: str) -> list[str]:
    """A command's words less an option and its value."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word == option:
            skip = True
        elif not word.startswith(f"{option}="):
            kept.append(word)
    return kept
