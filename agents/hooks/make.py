"""Sinks as the settings ask for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from agents.hooks.adapted import AdaptedSink
from agents.hooks.log_sink import LogSink
from agents.hooks.sink import CheckedSink
from agents.hooks.wanted import WantedSink
from agents.hooks.webhook import WebhookSink
from config.mistakes import SettingsError
from config.settings import (
    DeliverySettings,
    LogSinkSettings,
    PluginSinkSettings,
    SinkSettings,
    WebhookSinkSettings,
)
from config.sink_types import find_sink_class, read_options, takes_batches
from streams.events import SandboxEvent
from streams.ids import parse_team_id

__all__ = ["Made", "make_sink"]

_CONCURRENCY: Final = 16
_CONCURRENCY_MAX: Final = 1000


class Made(NamedTuple):
    """A sink, and how the deliveries to it are made."""

    sink: CheckedSink
    concurrency: int
    settings: DeliverySettings
    #: An event that the sink does not want is done without an attempt.
    wants: Callable[[SandboxEvent], bool] = lambda _: True


def make_sink(settings: SinkSettings) -> Made:
    """Return the sink that `settings` describe.

    Raises:
        SettingsError: the sink's own class does not take them.
    """
    made = _make(settings)
    if settings.events is None and settings.teams is None:
        return made
    teams = None if settings.teams is None else [parse_team_id(team) for team in settings.teams]
    sink = WantedSink(made.sink, types=settings.events, teams=teams)
    return made._replace(sink=sink, wants=sink.wants)


def _make(settings: SinkSettings) -> Made:
    match settings:
        case LogSinkSettings():
            return Made(LogSink(settings.name), settings.concurrency or 1, settings)
        case WebhookSinkSettings():
            return Made(_webhook(settings), settings.concurrency or _CONCURRENCY, settings)
        case PluginSinkSettings():
            return _plugin(settings)


def _webhook(settings: WebhookSinkSettings) -> WebhookSink:
    given = (settings.secret, settings.next_secret)
    return WebhookSink(
        settings.name,
        settings.url,
        tuple(secret.get_secret_value() for secret in given if secret is not None),
        settings.timeout_s,
        scheme=settings.scheme,
        allow_private=settings.allow_private,
    )


def _plugin(settings: PluginSinkSettings) -> Made:
    sink_class = find_sink_class(settings.type)
    concurrency = settings.concurrency or _CONCURRENCY
    if takes_batches(sink_class):
        # A batch fills only while as many deliveries are under way; two, so that one fills while
        # another is sent.
        least = settings.batch_max_events
        concurrency = settings.concurrency or min(2 * least, _CONCURRENCY_MAX)
        if concurrency < least:
            told = f"expected concurrency to be at least batch_max_events, which is {least}"
            raise SettingsError([f"sink {settings.name}: {told}"])
    sink = AdaptedSink(
        settings.name,
        _construct(sink_class, settings),
        timeout_s=settings.timeout_s,
        batch_max_events=settings.batch_max_events,
        batch_max_age_s=settings.batch_max_age_s,
    )
    return Made(sink, concurrency, settings)


def _construct(sink_class: type[Any], settings: PluginSinkSettings) -> Any:
    options = read_options(sink_class, settings.options)
    try:
        if options is None:
            return sink_class(settings.name)
        return sink_class(settings.name, options)
    except Exception as exc:
        # Not the text: it may quote an option.
        told = f"sink {settings.name}: {type(exc).__name__} when it was made"
        raise SettingsError([told]) from exc
