"""Formats of files without a footer, as records one after the other."""
