"""Payloads that nobody would send, and what has to hold for each of them."""
