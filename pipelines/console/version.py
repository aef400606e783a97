"""The version of the installed package; workers compare theirs with the client's."""

from __future__ import annotations

from importlib import metadata

DISTRIBUTION = "drf-pipelines"


def package_version() -> str:
    """The installed version, or "0+unknown" where the package runs uninstalled."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "0+unknown"
