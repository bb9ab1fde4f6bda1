"""Sinks as their authors would write them; each is under test."""
