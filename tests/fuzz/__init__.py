"""Hostile input with seeds: manifests, graphs, engine files, arguments. ``python -m tests.fuzz`` prints the counts."""
