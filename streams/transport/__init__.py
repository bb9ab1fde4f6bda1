"""Redis Streams as a transport for Faust.

How a message travels::

    Producer ── XADD ──> stream ── XREADGROUP ──> Reader ──> Ledger (in hand)
                                                    │
                                                    v
               Faust's conductor ──> topic ──> stream ──> agent
                                                            │ acknowledged by Faust, or
                                                            v settled by the agent itself
                     XTRIM <── XACK <── Acknowledger <── Ledger

A topic with n partitions is n streams; the app's id is the consumer group; a message is one
entry, or shares one with others (:mod:`.bundles`). Redis keeps, for each group, which entries were
delivered and not acknowledged: that is nearly all the state there is, and it survives this process.

Workers share the partitions so that the work is even (:mod:`.fleet`, :mod:`.sharing`,
:mod:`.coordinator`); reading starts with what is pending (:mod:`.reader`); a partition with too
much in hand is left alone until it has room (:mod:`.ledger`); what is acknowledged is trimmed away
(:mod:`.acknowledger`). What nobody will ever read is noticed, counted and recorded
(:mod:`.positions`, :mod:`.groups`, :mod:`.loss`).

The package knows nothing of what travels over it.
"""

from __future__ import annotations

from .consumer import Consumer
from .entry import Entry
from .errors import (
    BrokerRefusedError,
    BrokerUnavailableError,
    GroupLostError,
    JournalUnavailableError,
    NotOwnedError,
    PartitionsChangedError,
    TransportError,
    UnknownTopicError,
    UnsupportedError,
    broker_errors,
)
from .fleet import Holding, read_members, read_workers
from .layout import Stream, StreamLayout, partition_of
from .loss import Journal, Loss, LossKind, Position
from .options import CONFIG_KEY, Settle, StreamConfig, TransportOptions
from .producer import Producer, Record
from .transport import Transport
from .trouble import JOURNAL, REDIS, Trouble

__all__ = [
    "CONFIG_KEY",
    "JOURNAL",
    "REDIS",
    "BrokerRefusedError",
    "BrokerUnavailableError",
    "Consumer",
    "Entry",
    "GroupLostError",
    "Holding",
    "Journal",
    "JournalUnavailableError",
    "Loss",
    "LossKind",
    "NotOwnedError",
    "PartitionsChangedError",
    "Position",
    "Producer",
    "Record",
    "Settle",
    "Stream",
    "StreamConfig",
    "StreamLayout",
    "Transport",
    "TransportError",
    "TransportOptions",
    "Trouble",
    "UnknownTopicError",
    "UnsupportedError",
    "broker_errors",
    "partition_of",
    "read_members",
    "read_workers",
]
