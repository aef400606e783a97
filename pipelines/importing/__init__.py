"""Corpora as distributed, turned into posts with labels and splits; the job is `drf import`."""
