"""Tests, and what several of them share: an oracle and a generator of event logs."""
