"""`drf annotate` as the tests of the pipelines call it."""

from tests.pipelines.conftest import annotate, drf, inferred, output

__all__ = ["annotate", "drf", "inferred", "output"]
