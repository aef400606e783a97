"""The jobs behind `drf train` and `drf publish`."""
