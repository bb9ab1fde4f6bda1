"""Is everything set up so that the guarantees hold? Each check is a function in a table.

Nothing is written anywhere, and no sink is sent anything.
"""

from __future__ import annotations

from streams.doctor.examination import Examination, examine
from streams.doctor.finding import Finding, Verdict

__all__ = ["Examination", "Finding", "Verdict", "examine"]
