"""Comparing the rows with what the hosts report, after events were lost."""
