"""Recurrent bundles: graphs with explicit state in and out (the built-in models)."""
