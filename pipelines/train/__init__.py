"""The jobs behind `drf train`, `drf adapt` and `drf publish`."""
