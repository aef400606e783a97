"""The console command: its options, its one-line errors, its exit codes, what it prints."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipelines.cli import main
from tests.data.corpora import damage_page, make_posts, write_nights, write_posts
from tests.support.running import Output, Run, annotate_arguments

ROOT = Path(__file__).resolve().parents[2]

Drf = Callable[..., Run]


def write_nothing_usable(path: Path) -> None:
    write_posts(path, [{"post_id": "lost", "text": None, "image": None}])


def usage_error(run: Run) -> str:
    """The one line of a run that could not be carried out as it was written."""
    assert run.code == 2, run
    assert run.out == ""
    [line] = run.err.splitlines()
    assert line.startswith("drf: error: ")
    return line


def test_help_waits_for_no_large_package() -> None:
    script = """
import sys
from pipelines.cli import main
try:
    main(["--help"])
finally:
    print("imported:", *{"torch", "apache_beam", "transformers", "pyarrow"} & sys.modules.keys())
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)

    assert ended.returncode == 0
    for word in ("annotate", "train", "sample", "exit codes"):
        assert word in ended.stdout
    assert ended.stdout.splitlines()[-1] == "imported:"


_SMALL = ("--text-encoder", "small", "--image-encoder", "small")


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("annotate", ("--input", "./nowhere")),
        ("annotate", ("--input", "{posts}", "--model", "./nowhere")),
        ("train", ("--posts", "./nowhere", *_SMALL)),
        ("train", ("--posts", "{posts}", "--image-encoder", "small", "--text-encoder", "nowhere")),
        ("train", ("--posts", "{posts}", *_SMALL, "--teacher", "./nowhere")),
        ("train", ("--posts", "{posts}", *_SMALL, "--config", "./nowhere")),
        ("adapt", ("--posts", "./nowhere")),
        ("evaluate", ("--posts", "./nowhere", "--model", "default")),
        ("evaluate", ("--posts", "{posts}", "--model", "./nowhere")),
    ],
)
def test_a_wrong_path_is_told_before_any_large_package_is_imported(
    command: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    script = """
import os, sys
from pipelines.cli import main
code = main(sys.argv[1:])
print("imported:", code, *{"torch", "apache_beam", "transformers"} & sys.modules.keys())
# For when it is: its threads shall not spin.
print(os.environ["OMP_WAIT_POLICY"])
"""
    given = [option.format(posts=tmp_path) for option in options]
    (tmp_path / "posts.parquet").touch()
    ended = subprocess.run(
        [sys.executable, "-c", script, command, *given, "--output", tmp_path / "out"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1"},
    )

    assert "nowhere: " in ended.stderr.splitlines()[-1]
    assert ended.stdout.splitlines() == ["imported: 2", "PASSIVE"]


def test_help_of_annotate_lists_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["annotate", "--help"])

    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--input", "--model", "--column", "--strict", "--prune", "--retry", "--dry-run"):
        assert option in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--input", "{root}/none.parquet"], "none.parquet: no such file or folder"),
        (["--input", "{root}/*.nothing"], "matches no file"),
        (["--input", "{root}/empty"], "holds no file of posts"),
        (["--model", "./no/such/model"], "./no/such/model: no such folder"),
        (["--model", "{root}/pickled"], "only safetensors are loaded"),
        (["--model", "{root}/empty"], "holds no config.json"),
        (["--column", "picture=PICTURE"], "picture"),
        (["--column", "post_id="], "post_id"),
        (["--keep", "label", "--keep", "language"], "the annotations have a column of that name"),
        (["--retry", "fetch_faild", "--retry", "fetch_failed"], "fetch_faild"),
        (["--run-id", "../../etc"], "--run-id '../../etc'"),
        (["--max-dead-letter-share", "5"], "5 is not between 0 and 1"),
        (["--max-dead-letter-share", "x"], "x is not between 0 and 1"),
        (["--shard-rows", "0"], "0 is not a whole number of at least 1"),
        (["--threads", "-1.5"], "-1.5 is not a whole number of at least 0"),
        (["--column", "image=", "--column", "text="], "nothing is left to annotate"),
        (["--device", "tpu"], "--device"),
        (["--image-uri-prefix", "https://"], "--image-uri-prefix https://: not the URL"),
        (["--max-dead-leter-share", "0.1"], "did you mean --max-dead-letter-share?"),
        (["--direct_num_worker", "2"], "did you mean --direct_num_workers?"),
        (["--runner", "NoSuchRunner"], "NoSuchRunner"),
        (["--runner", "DataflowRunner"], "--runner DataflowRunner: Missing"),
        (["--dry-run", "--json"], "--dry-run"),
        (["--no-such-thing-anywhere"], "unknown option --no-such-thing-anywhere"),
        (["--prune", "stray"], "unexpected argument 'stray'"),
    ],
)
def test_a_command_that_cannot_be_carried_out_is_one_line_and_exit_code_2(
    drf: Drf,
    tmp_path: Path,
    posts: Path,
    tiny_checkpoint: Path,
    arguments: list[str],
    words: str,
) -> None:
    (tmp_path / "empty").mkdir()
    pickled = tmp_path / "pickled"
    shutil.copytree(tiny_checkpoint, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    output = Output(tmp_path / "out")
    given = annotate_arguments(posts, output, tiny_checkpoint)
    extra = [argument.format(root=tmp_path) for argument in arguments]
    if extra[0] == "--input":
        given = [*given[:1], *given[3:]]

    run = drf(*given, *extra)

    assert words in usage_error(run)
    assert not output.root.exists()


def test_nothing_is_changed_by_a_command_that_cannot_be_carried_out(
    tmp_path: Path, annotate: Drf, posts: Path, output: Output
) -> None:
    assert annotate(posts).code == 0
    before = output.files()

    for arguments in (
        [tmp_path / "none.parquet"],
        [posts, "--keep", "label"],
        [posts, "--retry", "nothing"],
    ):
        assert annotate(*arguments).code == 2

    assert output.files() == before


def test_a_dry_run_tells_what_is_planned_and_changes_nothing(
    tmp_path: Path, drf: Drf, posts: Path, tiny_checkpoint: Path, output: Output
) -> None:
    given = [*annotate_arguments(posts, output, tiny_checkpoint), "--dry-run"]
    given.remove("--json")

    fine = drf(*given)
    (tmp_path / "bad.parquet").write_bytes(b"")
    broken = drf(*given, "--input", tmp_path / "bad.parquet")

    assert (fine.code, fine.err) == (0, "")
    assert "to annotate: 3 posts" in fine.out
    assert broken.code == 4
    [line] = broken.err.splitlines()
    assert line.startswith("drf: error: ") and "bad.parquet is empty" in line
    assert not output.root.exists()


def test_a_home_folder_is_found_where_the_shell_did_not_look(
    tmp_path: Path, drf: Drf, posts: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    run = drf(*annotate_arguments(posts, Output(Path("~/out")), tiny_checkpoint))

    assert run.code == 0, run.err
    assert len(Output(tmp_path / "out").annotations) == 3


def test_options_that_are_required_are_named(drf: Drf) -> None:
    assert "--input, --output" in usage_error(drf("annotate", "--strict"))
    misspelt = usage_error(drf("annotate", "--inptu", "posts.parquet", "--output", "out"))
    assert misspelt.endswith("unknown option --inptu: did you mean --input?")
    assert "COMMAND" in usage_error(drf())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_asked_for_and_absent_is_an_error(
    drf: Drf, posts: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    given = annotate_arguments(posts, Output(tmp_path / "out"), tiny_checkpoint)

    assert "--device cuda" in usage_error(drf(*given, "--device", "cuda"))


def test_beams_own_options_are_taken(
    drf: Drf, posts: Path, tiny_checkpoint: Path, output: Output
) -> None:
    given = annotate_arguments(posts, output, tiny_checkpoint)

    run = drf(*given, "--runner", "FnApiRunner", "--direct_num_workers=1")

    assert run.code == 0, run.err
    assert len(output.annotations) == 3


def test_work_is_cut_for_as_many_workers_as_beam_is_asked_for(
    tmp_path: Path, drf: Drf, tiny_checkpoint: Path, output: Output
) -> None:
    write_nights(tmp_path / "nights", files_per_night=4, posts_per_file=100)
    given = [*annotate_arguments(tmp_path / "nights", output, tiny_checkpoint), "--dry-run"]
    given.remove("--json")

    alone, together = drf(*given), drf(*given, "--max_num_workers", "3")

    assert "in 2 work units" in alone.out
    assert "in 8 work units" in together.out


def test_the_manifest_says_what_was_asked_for(annotate: Drf, posts: Path) -> None:
    run = annotate(posts, "--retry", "fetch_failed", "--shard-rows", "7")

    options = run.manifest["options"]
    assert options["input"] == [str(posts)]
    assert options["retry"] == ["fetch_failed"]
    assert options["shard_rows"] == 7
    assert options["runner"] == "local"


def test_inputs_are_files_folders_and_globs_together(
    drf: Drf, tmp_path: Path, tiny_checkpoint: Path, output: Output
) -> None:
    write_nights(tmp_path / "nights")
    single = write_posts(tmp_path / "single.parquet", make_posts(2))
    given = annotate_arguments(single, output, tiny_checkpoint)

    run = drf(
        *given, "--input", f"{tmp_path}/nights/dt=2026-11-17", f"{tmp_path}/nights/*/*-00001*"
    )

    assert run.code == 0, run.err
    assert {file for file, _ in output.places()} == {
        "single.parquet",
        "dt=2026-11-17/part-00000.parquet",
        "dt=2026-11-17/part-00001.parquet",
        "dt=2026-11-18/part-00001.parquet",
    }


def test_the_summary_is_for_a_person(
    drf: Drf, posts: Path, tiny_checkpoint: Path, output: Output
) -> None:
    given = [a for a in annotate_arguments(posts, output, tiny_checkpoint) if a != "--json"]

    run = drf(*given, "--run-id", "tonight")

    assert run.code == 0
    assert run.out.startswith("3 of 3 posts annotated, in 1 file")
    for words in (
        "encoded by openvino",
        "labels",
        "text",
        "image",
        "present",
        f"{output.root}/annotations",
        f"{output.root}/_runs/tonight/manifest.json",
    ):
        assert words in run.out
    assert run.err == ""


@pytest.mark.parametrize(
    ("damage", "reason", "code"),
    [(damage_page, "rows 0 to 2", 4), (write_nothing_usable, "held back", 3)],
)
def test_what_went_wrong_is_named_once_and_explained_once(
    drf: Drf,
    posts: Path,
    tiny_checkpoint: Path,
    output: Output,
    damage: Callable[[Path], object],
    reason: str,
    code: int,
) -> None:
    damage(posts)
    given = [a for a in annotate_arguments(posts, output, tiny_checkpoint) if a != "--json"]

    run = drf(*given)

    assert run.code == code
    assert run.out.startswith("no file is published; ")
    [line] = run.err.splitlines()
    assert reason in line
    assert line.count("posts.parquet") == (code == 4)
    assert "warning" not in run.out
    for row in run.out.splitlines():
        assert row.count("posts.parquet") <= 1


def test_sample_writes_posts_that_annotate_takes(
    drf: Drf, tmp_path: Path, tiny_checkpoint: Path, output: Output
) -> None:
    assert drf("sample", tmp_path / "sample").code == 0

    run = drf(*annotate_arguments(tmp_path / "sample", output, tiny_checkpoint))

    assert run.code == 0, run.err
    assert len(output.succeeded()) == 2
    assert output.dead_letters
