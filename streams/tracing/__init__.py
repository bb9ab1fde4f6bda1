"""Traces of single entries, for whoever follows them through all stages."""
