"""The jobs: what turns files of posts into files of annotations, over Beam and fsspec."""
