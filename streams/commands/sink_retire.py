"""``sinks retire``: the end of a sink that is no longer configured.

With ``--json`` it prints one document, in ASCII; fields may be added to it, none are removed or
changed while ``version`` is 1. With ``--dry-run`` the numbers are what would be::

    {"version": 1, "sink", "dry_run": bool, "keys": how many are removed,
     "dropped": entries that are dead letters now, "dead_letters": how many of it were there before,
     "discarded": how many of those are discarded}
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

import click
from faust.cli.base import argument, option

from streams.commands.dead_letters import as_json_text
from streams.commands.sink_command import SINK, SinkCommand
from streams.dead_letters.letters import Filter, State
from streams.dead_letters.store import LetterStore
from streams.sinks.retirement import Retirement
from streams.transport import broker_errors

__all__ = ["Retire"]

_STEP: Final = 500


class Retire(SinkCommand):
    """Remove all that is left of a sink: its topic, retries and record of deliveries.

    Take it out of the settings first, and restart the workers. Its dead letters stay, unless told
    otherwise; they cannot be replayed while there is no sink of that name.
    """

    options = [  # noqa: RUF012 - Faust declares it on the instance
        argument("name", type=SINK, metavar="NAME"),
        option("--drop", is_flag=True, help="What is not delivered yet becomes dead letters."),
        option("--discard-dead-letters", "discard", is_flag=True, help="Discard its dead letters."),
        option("--dry-run", is_flag=True, help="Only say what would be done."),
        option("--json", "as_json", is_flag=True, help="Print what is done as JSON."),
    ]

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        """Refuse to make letters and to discard them in the same breath."""
        if options["drop"] and options["discard"]:
            raise click.UsageError(
                "give --drop, which makes dead letters, or --discard-dead-letters, not both;"
                " discard them later with `dead-letters discard --all --sink NAME`"
            )

    async def run(self, name: str, drop: bool, discard: bool, dry_run: bool, as_json: bool) -> None:
        """Look whether it can be done, and do it."""
        if name in (sink.name for sink in self.settings.sinks):
            self.refuse(f"{name} is configured: take it out of the settings first")
        with LetterStore.opened(self.settings) as store:
            done = await self._retire(store, name, drop=drop, dry_run=dry_run)
            if discard:
                done["discarded"] = self._discard(store, name, dry_run=dry_run)
        if as_json:
            self.say(as_json_text({"version": 1, "sink": name, "dry_run": dry_run, **done}))
        elif dry_run:
            about = f"{done['keys']:,} keys; {done['dropped']:,} entries to be dead letters"
            what = "discard" if discard else "leave"
            letters = done["discarded"] if discard else done["dead_letters"]
            self.say(f"would remove {about}; would {what} {letters:,} dead letters")
        else:
            self._tell(name, done, discard=discard)

    async def _retire(
        self, store: LetterStore, name: str, *, drop: bool, dry_run: bool
    ) -> dict[str, int]:
        """Do it, or only look; return the numbers that are told of it."""
        letters = store.count(Filter(sink=name, states=(State.DEAD, State.REPLAYING)))
        async with self.redis() as client:
            retirement = Retirement(
                client,
                name,
                group=self.settings.app_id,
                layout=self.reconciler_app.redis_layout,
                silence_s=self.settings.lease_s + self.settings.read_block_ms / 1000,
            )
            remains = await retirement.look()
            if not remains.is_anything and not store.knows("sink", name):
                self.refuse(f"{name}: there is nothing of such a sink")
            await retirement.check_nobody_has_it()
            if remains.undelivered and not drop:
                self.fail(f"{name} was not given {remains.undelivered:,} entries: see --drop")
            keys, dropped = remains.keys, remains.undelivered
            if not dry_run:
                dropped = await retirement.drop() if drop else 0
                keys = await retirement.remove()
                # Of replays whose notes nobody needs; the others are not of this sink alone.
                notes = [self._note(number) for number in store.replayed_of_sink(name)]
                for start in range(0, len(notes), _STEP):
                    with broker_errors("DEL"):
                        await client.delete(*notes[start : start + _STEP])
        return {"keys": keys, "dropped": dropped, "dead_letters": letters, "discarded": 0}

    def _tell(self, name: str, done: Mapping[str, int], *, discard: bool) -> None:
        self.say(f"retired {name}: {done['keys']:,} keys removed")
        if done["dropped"]:
            self.say(f"{done['dropped']:,} entries that it was not given are dead letters now")
        if discard:
            self.say(f"{done['discarded']:,} dead letters discarded")
        elif done["dead_letters"]:
            self.say(f"{done['dead_letters']:,} dead letters of it were there and stay")

    def _note(self, letter_id: int) -> bytes:
        return self.reconciler_app.redis_layout.name(f"replay-of-letter-{letter_id}")

    def _discard(self, store: LetterStore, name: str, *, dry_run: bool) -> int:
        # One that is being replayed is its replay's to end.
        wanted = Filter(sink=name, states=(State.DEAD,))
        if dry_run:
            return store.count(wanted)
        letters = store.oldest_first(wanted, up_to=store.last_id())
        discarded = 0
        while step := list(islice(letters, _STEP)):
            discarded += len(store.discard_dead(step))
        return discarded
