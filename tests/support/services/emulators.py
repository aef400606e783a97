"""Object stores on this machine: moto's S3 and fake-gcs-server, each behind a proxy."""

from __future__ import annotations

import contextlib
import logging
import shutil
import socket
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tests.support.running import Output
from tests.support.services.faulty_proxy import Proxy, run_proxy


@dataclass(frozen=True)
class Emulator:
    """A store behind a proxy. environment: how a client finds it. direct: without the proxy."""

    protocol: str
    proxy: Proxy
    environment: dict[str, str]
    direct: fsspec.AbstractFileSystem

    def make_bucket(self) -> str:
        """Make a new bucket and return its URL."""
        name = f"bucket-{uuid.uuid4().hex[:8]}"
        if self.protocol == "s3":
            self.direct.call_s3("create_bucket", Bucket=name)
        else:
            self.direct.call("POST", "b", json={"name": name}, project="p")
        return f"{self.protocol}://{name}"

    def upload(self, folder: Path, url: str) -> str:
        """Put what lies below a folder to a URL and return the URL."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{url}/{path.relative_to(folder)}", path.read_bytes())
        return url

    def put(self, url: str, data: bytes) -> None:
        self.direct.pipe_file(url, data)
        self.direct.invalidate_cache()

    def download(self, url: str, folder: Path) -> Output:
        """Copy what lies below a URL to a folder, and return it as an output."""
        shutil.rmtree(folder, ignore_errors=True)
        for name in self.names(url):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.direct.cat_file(f"{url}/{name}"))
        return Output(folder)

    def names(self, url: str) -> list[str]:
        """Return what lies below a URL, relative to it."""
        self.direct.invalidate_cache()
        root = self.direct._strip_protocol(url)
        return sorted(path[len(root) + 1 :] for path in self.direct.find(root))


@contextlib.contextmanager
def run_s3() -> Iterator[Emulator]:
    """Run moto's S3."""
    pytest.importorskip("s3fs", reason="needs s3fs (the extra s3)")
    server = pytest.importorskip("moto.server", reason="needs moto[server] (the extra test)")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    try:
        with run_proxy(f"{host}:{port}") as proxy:
            environment = {
                "AWS_ENDPOINT_URL": proxy.url,
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
            }
            direct = fsspec.filesystem(
                "s3",
                key="test",
                secret="test",
                endpoint_url=f"http://{host}:{port}",
                client_kwargs={"region_name": "us-east-1"},
                skip_instance_cache=True,
            )
            yield Emulator("s3", proxy, environment, direct)
    finally:
        moto.stop()


@contextlib.contextmanager
def run_gcs() -> Iterator[Emulator]:
    """Run fake-gcs-server."""
    pytest.importorskip("gcsfs", reason="needs gcsfs (the extra gcs)")
    build = subprocess.run(
        [Path(__file__).parents[2] / "build_gcs_server"], capture_output=True, text=True
    )
    if build.returncode == 3:
        pytest.skip(build.stderr.strip())
    assert build.returncode == 0, build.stderr
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with run_proxy(f"127.0.0.1:{port}") as proxy:
        server = subprocess.Popen(
            [
                *(
                    build.stdout.strip(),
                    "-scheme",
                    "http",
                    "-host",
                    "127.0.0.1",
                    "-port",
                    str(port),
                ),
                *("-backend", "memory", "-external-url", proxy.url, "-log-level", "error"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}/storage/v1/b?project=p", server)
            environment = {"STORAGE_EMULATOR_HOST": proxy.url, "FSSPEC_GS_TOKEN": "anon"}
            direct: Any = fsspec.filesystem(
                "gs",
                token="anon",
                endpoint_url=f"http://127.0.0.1:{port}",
                project="p",
                skip_instance_cache=True,
            )
            yield Emulator("gs", proxy, environment, direct)
        finally:
            server.kill()
            server.wait()


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(500):
        assert server.poll() is None, "fake-gcs-server ended"
        with contextlib.suppress(OSError), urllib.request.urlopen(url):
            return
        time.sleep(0.02)
    raise AssertionError("fake-gcs-server does not answer")
