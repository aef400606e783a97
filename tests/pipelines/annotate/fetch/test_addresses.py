"""Addresses: only what lies below the allowed prefixes is asked for, however it is spelled."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from pipelines.annotate.fetch.addresses import check_prefix
from pipelines.annotate.fetch.fetcher import ImageFetcher
from schemas.errors import UsageError
from tests.support.services.image_server import IMAGE, ImageServer, fetch

Make = Callable[..., ImageFetcher]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    (images / "deep").mkdir(parents=True)
    (images / "a.jpg").write_bytes(IMAGE)
    (images / "deep" / "b #1?.jpg").write_bytes(IMAGE)
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (tmp_path / "images-of-others").mkdir()
    (tmp_path / "images-of-others" / "a.jpg").write_bytes(b"secret")
    return images


def test_a_local_image_below_the_prefix_is_fetched(fetcher_of: Make, folder: Path):
    fetcher = fetcher_of(str(folder))
    for uri in (f"{folder}/a.jpg", f"file://{folder}/a.jpg", f"FILE://localhost{folder}/a.jpg"):
        assert fetch(fetcher, uri) == (IMAGE, None)
    assert fetch(fetcher, f"{folder}/deep/b #1?.jpg") == (IMAGE, None)


def test_an_image_on_any_store_is_fetched(fetcher_of: Make):
    store = fsspec.filesystem("memory")
    store.pipe_file("/bucket/images/a.jpg", IMAGE)
    store.pipe_file("/bucket/other/a.jpg", b"secret")
    fetcher = fetcher_of("memory://bucket/images/")
    assert fetch(fetcher, "memory://bucket/images/a.jpg") == (IMAGE, None)
    assert fetch(fetcher, "memory://bucket/images/gone.jpg") == (None, "gone")
    assert fetch(fetcher, "memory://bucket/other/a.jpg") == (None, "not_allowed")


def test_an_image_on_a_web_server_is_fetched(fetcher_of: Make, server: ImageServer):
    fetcher = fetcher_of(f"{server.url}/images")
    for name in ("a.jpg", "a.jpg?size=large&x=../..", "ä b.jpg", "%61.jpg"):
        assert fetch(fetcher, f"{server.url}/images/{name}") == (IMAGE, None), name
    shouted = server.url.replace("http", "HTTP")
    assert fetch(fetcher, f"{shouted}/images/a.jpg#part") == (IMAGE, None)


def test_without_prefixes_nothing_is_fetched(fetcher_of: Make, folder: Path, server: ImageServer):
    fetcher = fetcher_of()
    assert fetch(fetcher, f"{folder}/a.jpg") == (None, "not_allowed")
    assert fetch(fetcher, f"{server.url}/images/a.jpg") == (None, "not_allowed")
    assert server.asked == []


@pytest.mark.parametrize(
    "uri",
    [
        "{folder}/../secret.jpg",
        "{folder}/deep/../../secret.jpg",
        "{folder}/?/../../secret.jpg",
        "{folder}/#/../../secret.jpg",
        "{folder}/%2e%2e/secret.jpg",
        "{folder}-of-others/a.jpg",
        "file://elsewhere{folder}/a.jpg",
        "file:{folder}/a.jpg",
        "images/a.jpg",
        "a.jpg",
        "~/a.jpg",
        "",
        "data:image/png;base64,AAAA",
        "memory:/{folder}/a.jpg",
        "simplecache::file://{folder}/a.jpg",
        "{folder}/a.jpg\n",
        "{folder}/a\x00.jpg",
    ],
)
def test_a_path_outside_the_prefix_is_not_allowed(fetcher_of: Make, folder: Path, uri: str):
    assert fetch(fetcher_of(str(folder)), uri.format(folder=folder)) == (None, "not_allowed")


@pytest.mark.parametrize(
    "uri",
    [
        "{url}/secret.jpg",
        "{url}/images-of-others/a.jpg",
        "{url}/images/../secret.jpg",
        "{url}/images/%2e%2e/secret.jpg",
        "{url}/images/%2E%2E%2Fsecret.jpg",
        "{url}/images/%252e%252e/secret.jpg",
        "{url}/images/%3f%2f..%2fsecret.jpg",
        "{url}/images/..;x=1/secret.jpg",
        "{url}/images/..%5csecret.jpg",
        "{url}/images\\..\\secret.jpg",
        "{url}/images/a.jpg%0d%0aX: y",
        "http://user:password@{host}/images/a.jpg",
        "http://127.0.0.1.example.org/images/a.jpg",
        "http://127.0.0.1/images/a.jpg",
        "https://{host}/images/a.jpg",
        "//{host}/images/a.jpg",
        "http://[::1/images/a.jpg",
        "http://{host}:x/images/a.jpg",
    ],
)
def test_a_url_outside_the_prefix_is_never_asked_for(
    fetcher_of: Make, server: ImageServer, uri: str
):
    fetcher = fetcher_of(f"{server.url}/images/")
    uri = uri.format(url=server.url, host=server.url.removeprefix("http://"))
    assert fetch(fetcher, uri) == (None, "not_allowed")
    assert server.asked == []


def test_a_default_port_means_the_same_place(fetcher_of: Make):
    # Nothing listens there: that it was tried at all is the point.
    fetcher = fetcher_of("http://127.0.0.1:80/images", timeout_seconds=1)
    assert fetch(fetcher, "http://127.0.0.1/images/a.jpg") == (None, "fetch_failed")


def test_what_is_no_file_is_a_failed_fetch(fetcher_of: Make, folder: Path):
    os.mkfifo(folder / "pipe.jpg")
    fetcher = fetcher_of(str(folder))
    for name in ("pipe.jpg", "deep"):
        assert fetch(fetcher, f"{folder}/{name}") == (None, "fetch_failed")


def test_a_relative_prefix_is_made_absolute(
    fetcher_of: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(folder.parent)
    assert check_prefix("images") == str(folder)
    assert check_prefix("s3://bucket/images") == "s3://bucket/images"
    assert fetch(fetcher_of("images"), f"{folder}/a.jpg") == (IMAGE, None)


@pytest.mark.parametrize(
    "prefix",
    [
        "https://user:password@cdn.example.org/images",
        "ftp://user:password@cdn.example.org/images",
        "https://cdn.example.org/images?signature=password",
    ],
)
def test_a_prefix_with_a_secret_is_refused_without_repeating_it(prefix: str):
    with pytest.raises(UsageError) as error:
        check_prefix(prefix)
    assert "password" not in str(error.value)


@pytest.mark.parametrize(
    "prefix", ["https://", "s3:///images", "file://host/images", "https://a/../b", "ht tp://a/b"]
)
def test_a_prefix_that_is_no_folder_is_refused(prefix: str):
    with pytest.raises(UsageError, match="not the URL of a folder"):
        check_prefix(prefix)
