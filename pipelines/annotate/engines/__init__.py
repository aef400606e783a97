"""Beam's runners, and what they ask for."""
