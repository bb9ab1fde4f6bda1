"""How much of a stream that somebody else trims was read, compared with what was added to it.

Redis' own figure for that (``lag``) is wrong for good once unread entries were trimmed. What it
does count is how many entries were ever added. So here is counted what was *delivered*: wherever
nothing is left to read, or nothing that was read is left, what was delivered follows from what
was added, and whatever is missing was lost.

The count survives any crash, to the entry. The reader adds up what each of its reads brings. The
last entry delivered and its ordinal are written into Redis before anything up to there is
acknowledged (``position_ack.lua``), so that what was delivered behind it is still pending, and a
successor counts it. Losses are not worked into the count: they are its distance from what was
added, and the journal knows how much of that it has.

A check is one script. It is made before the first read of a term, after each failure, behind each
read that came back full, since only then can entries wait to be trimmed, and now and then.

Another consumer name in the group reads entries that nobody here can count. As long as there is
one, the count starts anew where it would show a loss. Redis 6 does not count what is added, and
so has no losses of this kind that could be seen.

The keys: ``<prefix>position:<topic>``, a hash:

=========== ===============================================================================
field       holds
=========== ===============================================================================
``epoch``   which life of stream and group is counted
``id``      the last entry delivered, when this was written
``ordinal`` entries up to it that were delivered, or there before the group was
``lost``    entries lost in this epoch that the journal has
``clean``   the last entry delivered when nothing more than that was missing
``last``    the last id that the stream had given out
``added``   entries that had ever been added to it
=========== ===============================================================================
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from functools import partial
from time import monotonic

import redis.asyncio
from faust.types import TP

from .errors import GroupLostError, broker_errors
from .layout import Stream, StreamLayout
from .loss import Journal, Loss, LossKind, Position, id_after, order_of
from .lua import script
from .read_so_far import Figures, ReadSoFar
from .recorder import LossRecorder
from .remembering import Remembering

__all__ = ["CONSUMER", "Positions"]

#: The name that every owner reads under.
CONSUMER = b"owner"

#: Entries counted in one go where nothing else says how far a group is, and how often at most.
_COUNT_MAX = 20_000
_COUNT_EVERY_S = 10.0


class Positions:
    """Counts what is read, and reports what is missing.

    Arguments:
        group: the consumer group.
        check_interval_s: how often to compare.
        journal: where positions are remembered for the time when Redis is emptied.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        layout: StreamLayout,
        recorder: LossRecorder,
        *,
        group: str,
        check_interval_s: float,
        journal: Journal | None,
    ) -> None:
        self._layout = layout
        self._recorder = recorder
        self._group = group
        self._check_interval_s = check_interval_s
        self._check_script = client.register_script(script("position_check"))
        self._known: dict[bytes, ReadSoFar] = {}
        #: When each counted partition was looked at; it must be before more of it is handed on.
        self._checked_at: dict[TP, float] = {}
        self._counted_at: dict[TP, float] = {}
        self._remembering = Remembering(journal, of=self._of)

    def key(self, stream: Stream) -> bytes:
        """The key of the position of `stream`."""
        return self._layout.name(f"position:{stream.tp.topic}")

    def counts_key(self, stream: Stream) -> bytes:
        """The key of what is counted of the topic of `stream`, whose entries hold several."""
        return self._layout.counts_key(stream.tp.topic)

    def _of(self, stream: Stream) -> ReadSoFar:
        return self._known.setdefault(stream.key, ReadSoFar())

    # -- Terms

    def watch(self, stream: Stream) -> None:
        """Count `stream` from now on, if it is somebody else's."""
        if not stream.is_ours:
            self.must_check(stream)
            self._remembering.watch(stream)

    def forget(self, stream: Stream) -> None:
        """Its term is over."""
        self._checked_at.pop(stream.tp, None)
        self._remembering.forget(stream)

    # -- Counting

    def advance(self, stream: Stream, last: bytes, count: int, *, full: bool) -> None:
        """Note that a read brought `count` new entries up to `last`, as many as fit if `full`."""
        known = self._of(stream)
        known.id = last.decode()
        known.ordinal += count
        known.last_id = max(known.last_id, known.id, key=order_of)
        if stream.is_ours:
            known.added += count
        elif full:
            self.must_check(stream)

    def must_check(self, stream: Stream) -> None:
        """Let nothing more of `stream` be handed on before the next check."""
        if not stream.is_ours:
            self._checked_at[stream.tp] = 0.0

    def may_hand_on(self, stream: Stream) -> bool:
        """Whether nothing that was delivered can have escaped the count."""
        return self._checked_at.get(stream.tp) != 0.0

    def read_so_far(self, stream: Stream) -> ReadSoFar | None:
        """What an acknowledgement must write down before; None: nothing."""
        known = self._known.get(stream.key)
        return known if known is not None and known.epoch and not stream.is_ours else None

    # -- Checking

    async def check(self, streams: Iterable[Stream]) -> None:
        """Look at those of `streams` that are counted and due.

        Raises:
            GroupLostError: a stream or its group is gone.
            TransportError: Redis is unreachable or refuses.
        """
        for stream in streams:
            checked_at = self._checked_at.get(stream.tp)
            if checked_at is not None and monotonic() - checked_at >= self._check_interval_s:
                await self._check(stream)

    async def _check(self, stream: Stream) -> None:
        known = self._of(stream)
        began = monotonic()
        figures = await self._look(stream, known)
        if figures.status == "unsupported":
            known.epoch = ""
        else:
            if self._went_back(stream, known, figures):
                figures = await self._look(stream, known, anew=True)
            self._compare(stream, known, figures)
        if stream.tp in self._checked_at:  # its term may have ended meanwhile
            self._checked_at[stream.tp] = began

    async def _look(self, stream: Stream, known: ReadSoFar, *, anew: bool = False) -> Figures:
        may_count = monotonic() - self._counted_at.get(stream.tp, -_COUNT_EVERY_S)
        with broker_errors("position_check"):
            answer = await self._check_script(
                keys=[stream.key, self.key(stream)],
                args=[
                    self._group,
                    CONSUMER,
                    known.epoch,
                    known.id,
                    known.ordinal,
                    known.recorded,
                    secrets.token_hex(8),
                    _COUNT_MAX if may_count >= _COUNT_EVERY_S else 0,
                    int(anew),
                ],
            )
        if answer[0] == b"no group":
            raise GroupLostError(f"{stream.key.decode()}: the stream or its group is gone")
        if answer[0] == b"unsupported":
            return Figures("unsupported", "", "", 0, -1, 0, 0, "", "", "", "", "", 0, "", -1)
        figures = Figures.from_answer(answer)
        if figures.status == "unknown":
            self._counted_at[stream.tp] = monotonic()
        return figures

    def _went_back(self, stream: Stream, known: ReadSoFar, figures: Figures) -> bool:
        last_before = max(known.last_id, figures.last_id_before, key=order_of)
        if figures.last_id == "0-0" or order_of(figures.last_id) >= order_of(last_before):
            return False
        added_before = max(known.added, figures.added_before)
        gone = added_before - max(known.accounted, figures.added)
        known.last_id, known.added = figures.last_id, figures.added
        self._recorder.report(
            Loss(
                kind=LossKind.IDS_BACKWARDS,
                stream=stream.key.decode(),
                after_id=figures.last_id,
                before_id=id_after(last_before),
                entries=gone if gone > 0 else None,
                account=last_before,
            )
        )
        return True

    def _compare(self, stream: Stream, known: ReadSoFar, figures: Figures) -> None:
        known.id, known.ordinal = figures.id, figures.ordinal
        # A stream made anew and still empty has no last id: the next one may be below it.
        known.last_id = max(known.last_id, figures.last_id, key=order_of)
        known.added = figures.added
        if figures.epoch != known.epoch:
            known.epoch, known.clean = figures.epoch, figures.clean_before
            known.reported = known.recorded = figures.lost
        known.clean = max(known.clean, figures.clean_before, key=order_of)
        if not known.epoch or figures.implied < 0:
            known.clean = max(known.clean, figures.clean, key=order_of)
            return
        total = figures.implied - figures.ordinal
        if total > known.reported:
            loss = Loss(
                kind=LossKind.TRIMMED_UNREAD,
                stream=stream.key.decode(),
                after_id=known.clean,
                before_id=_end_of_gap(figures),
                entries=total - known.reported,
                account=known.epoch,
                total=total,
            )
            self._recorder.report(loss, then=partial(_recorded, known, loss))
            known.reported = total
        known.clean = figures.id

    # -- A stream that was looked at as its group was made, or found

    def last_known(self, stream: Stream) -> Position:
        """How far this process has seen `stream`, in whichever term."""
        known = self._of(stream)
        # Others may have read on since, so that what was unread then is not what is lost now.
        is_current = self.may_hand_on(stream) and stream.tp in self._checked_at
        accounted = known.accounted if is_current else known.added
        return known.position(stream.key.decode(), accounted=accounted)

    def begin(self, stream: Stream, added: int, length: int, last_id: str, *, anew: bool) -> None:
        """Take note of the figures of `stream`, and that its group is at the start if `anew`."""
        known = self._of(stream)
        if anew:
            # Not the last id: what comes below it goes back in time.
            self._known[stream.key] = ReadSoFar(
                last_id=known.last_id, ordinal=max(added - length, 0)
            )
            self.must_check(stream)
        known = self._of(stream)
        if stream.is_ours or anew:
            known.added = max(known.added, added)
            known.last_id = max(known.last_id, last_id, key=order_of)


def _recorded(known: ReadSoFar, loss: Loss) -> None:
    if known.epoch == loss.account:
        known.recorded = max(known.recorded, loss.total)


def _end_of_gap(figures: Figures) -> str:
    """The id that all lost entries are below."""
    if figures.first and order_of(figures.id) < order_of(figures.first):
        # Entries may also have been deleted one by one behind the first that is left.
        deleted_behind = order_of(figures.deleted) >= order_of(figures.first)
        return id_after(figures.deleted) if deleted_behind else figures.first
    return figures.id if figures.id == figures.last_id else id_after(figures.last_id)
