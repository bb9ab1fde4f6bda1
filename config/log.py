"""How the whole process logs: one formatter for our records, Faust's and every library's.

JSON lines for machines, columns for a person at a terminal. Both go to standard error, with
passwords masked and control characters escaped, so that no payload forges a line.
"""

from __future__ import annotations

import logging
import logging.config
import re
import sys
from collections.abc import Mapping
from typing import Any, Final, Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from config.urls import MASK, SECRET_NAME, mask_text

LogFormat = Literal["auto", "json", "console"]

# What moves a terminal's cursor or ends a line somewhere: C0, DEL, C1, Unicode's line and
# paragraph separators, and the marks that reorder text.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_MAX_DEPTH: Final = 6
# Loggers that get their level by name: Faust lowers the root logger to DEBUG for its spinner,
# after which each of its own debug records would be made, only to be dropped.
_NOISY: Final = ("aiohttp", "aiokafka", "asyncio", "faust", "mode", "redis", "streams", "agents")


def configure_logging(level: str, format: LogFormat) -> dict[str, Any]:  # noqa: A002 its own name
    """Set up structlog and the standard library's logging for this process.

    `level` is a name such as `info`; `auto` is `console` on a terminal and `json` elsewhere.
    Every record has `timestamp` (UTC, ISO 8601), `level`, `logger` and `event`, and what the call
    adds. Returns the `logging.config.dictConfig` dictionary for Faust's `logging_config` setting:
    with it `faust worker` keeps these handlers and adds none of its own.
    """
    terminal = sys.stderr.isatty()
    console = format == "console" or (format == "auto" and terminal)
    config = _logging_config(level.upper(), console=console, colors=terminal)
    logging.config.dictConfig(config)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            *_described(),
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.stdlib.LoggerFactory(),
        # A module's logger may be used before the level is known, and must follow it afterwards.
        cache_logger_on_first_use=False,
    )
    return config


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask passwords in URLs, and whatever is under a name such as `secret`, in one record."""
    return {key: _redacted(key, value, 0) for key, value in event.items()}


def escape_control_characters(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Write the control characters of one record as `\\x1b`, `\\n` and so on.

    A traceback keeps its line ends, and each of its lines is set in: what an exception says can
    then not pass for a record of its own.
    """
    escaped = {_escaped(key): _escaped(value) for key, value in event.items() if key != "exception"}
    if isinstance(event.get("exception"), str):
        lines = (_escaped(line) for line in event["exception"].split("\n"))
        escaped["exception"] = "\n".join(f"  | {line}" for line in lines)
    return escaped


def _described() -> list[Processor]:
    return [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
    ]


def _formatter(*, console: bool, colors: bool) -> structlog.stdlib.ProcessorFormatter:
    # JSON escapes by itself (ensure_ascii), and doing it twice would double the backslashes.
    ending: list[Processor] = (
        [escape_control_characters, structlog.dev.ConsoleRenderer(colors=colors)]
        if console
        else [structlog.processors.JSONRenderer(default=repr, sort_keys=False)]
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*_described(), structlog.stdlib.ExtraAdder()],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            redact,
            *ending,
        ],
    )


def _logging_config(level: str, *, console: bool, colors: bool) -> dict[str, Any]:
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"ours": {"()": _formatter, "console": console, "colors": colors}},
        "handlers": {
            # Faust sets the level of the first handler to that of its own --loglevel, WARN by
            # default, which would silence us. It may have this one.
            "faust_spinner": {"class": "logging.NullHandler"},
            "ours": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stderr",
                "formatter": "ours",
                "level": level,
            },
        },
        "loggers": {name: {"level": level} for name in _NOISY},
        "root": {"level": level, "handlers": ["faust_spinner", "ours"]},
    }


def _redacted(key: object, value: object, depth: int) -> object:
    if isinstance(key, str) and SECRET_NAME.search(key):
        return MASK
    if isinstance(value, str):
        return mask_text(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth < _MAX_DEPTH:
        if isinstance(value, Mapping):
            return {str(k): _redacted(k, v, depth + 1) for k, v in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [_redacted(None, item, depth + 1) for item in value]
    # As text here, not by the renderer: what an object's repr shows may be a URL as well.
    return mask_text(repr(value))


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return _CONTROL.sub(lambda found: _escape(found[0]), value)
    if isinstance(value, Mapping):
        return {_escaped(k): _escaped(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return value


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
