"""A coverage-guided search for bytes that break what has to hold: ``python -m tests.fuzz.target``.

The arguments are libFuzzer's: directories with seeds, ``-runs=``, ``-max_len=``, ``-seed=``. It
ends with 77 at the first input that breaks something and prints it so that it can be pasted into
a test; libFuzzer also writes it to a file (``-artifact_prefix=``).
"""

from __future__ import annotations

import sys
from unittest.mock import patch

import atheris

# Instrumented while they are imported: what is under test.
with atheris.instrument_imports(include=["streams.events", "streams.strict_json", "streams.ids"]):
    import streams.events

from tests.fuzz.mutations import Mutator
from tests.fuzz.properties import check_delivery, check_payload


def check(data: bytes) -> None:
    """All that has to hold for one input."""
    try:
        check_payload(data)
        check_delivery(data)
    except BaseException:
        print(f"broken by: check_payload({data!r})", file=sys.stderr, flush=True)
        raise


def mutate(data: bytes, size_max: int, seed: int) -> bytes:
    """Every other time as JSON and as an event, else as libFuzzer does, blindly."""
    if seed % 2:
        return Mutator(seed).mutant(data, data)[:size_max]
    mutant: bytes = atheris.Mutate(data, size_max)
    return mutant


def plant() -> None:
    """Break the reading of ids as a careless change would, for the proof that it is found."""

    def careless(text: str) -> bytes:
        return int(text.removeprefix("cl-"), 36).to_bytes(16, "big")

    patch.object(streams.events, "parse_capsule_key", careless).start()


def main() -> None:
    """Run until libFuzzer ends the process; with ``--planted`` there is something to find."""
    if "--planted" in sys.argv:
        sys.argv.remove("--planted")
        plant()
    atheris.Setup(sys.argv, check, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
