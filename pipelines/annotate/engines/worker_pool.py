"""Beam's pool of workers for a Flink TaskManager beside it, and for nobody else.

    python -m pipelines.annotate.engines.worker_pool --service_port=50000

Beam's own binds every address, and has no option for another; a pool runs whatever it is told.
"""

from __future__ import annotations

import sys
from typing import Any

import grpc
from apache_beam.runners.worker import worker_pool_main


def main(arguments: list[str]) -> None:
    """Serve on 127.0.0.1 until the process is ended; arguments: of Beam's pool."""
    make = grpc.server

    def make_local(*args: Any, **options: Any) -> grpc.Server:
        server = make(*args, **options)
        bind = server.add_insecure_port
        server.add_insecure_port = lambda address: bind(address.replace("[::]", "127.0.0.1"))
        return server

    grpc.server = make_local
    worker_pool_main.main([sys.argv[0], *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
