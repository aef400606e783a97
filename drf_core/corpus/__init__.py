"""Labelled posts, what disrupts them on purpose, and their features as views."""
