"""A long run under load and faults, with an account at its end."""
