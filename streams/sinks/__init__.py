"""The life of a sink, for operators: its record, its past, its pauses and its end."""
