"""`dead-letters` on real servers: what is chosen, shown and refused."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.dead_letters.letters import Filter, State
from streams.dead_letters.store import LetterStore
from tests.letters import (
    DELIVERY,
    HOSTILE,
    KEY,
    StoredLetter,
    complaint,
    dead_letters,
    everything,
    letter_table,
    put,
)
from tests.reconciliation import Ground

pytestmark = pytest.mark.usefixtures("prepared")


# What is chosen.

WHEN = datetime(2026, 3, 1, tzinfo=UTC)
LETTERS = st.builds(
    StoredLetter,
    stage=st.sampled_from(["route", "failure", "hook.billing", "unknown"]),
    sink=st.sampled_from(["", "billing", "old"]),
    reason=st.sampled_from(["bad_entry", "no_team", "a newer word"]),
    last_at=st.integers(-3, 3).map(lambda n: WHEN + timedelta(microseconds=n)),
    state=st.sampled_from([state.value for state in State]),
)
FILTERS = st.builds(
    Filter,
    stage=st.sampled_from([None, "route", "failure", "nowhere"]),
    sink=st.sampled_from([None, "", "billing"]),
    reason=st.sampled_from([None, "no_team"]),
    since=st.sampled_from([None, WHEN, WHEN + timedelta(microseconds=2)]),
    states=st.lists(st.sampled_from(list(State)), unique=True).map(tuple),
)


def is_meant(letter: StoredLetter, wanted: Filter) -> bool:
    return (
        letter.state in wanted.states
        and (wanted.stage is None or letter.stage == wanted.stage)
        and (wanted.sink is None or letter.sink == wanted.sink)
        and (wanted.reason is None or letter.reason == wanted.reason)
        and (wanted.since is None or letter.last_at >= wanted.since)
    )


def test_filters_choose_what_they_say(ground: Ground, store: LetterStore) -> None:
    @settings(
        max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(letters=st.lists(LETTERS, max_size=20), wanted=FILTERS, limit=st.integers(1, 8))
    def each(letters: list[StoredLetter], wanted: Filter, limit: int) -> None:
        with ground.cursor() as cursor:
            cursor.execute("truncate capsule_reconciler.dead_letters")
        ids = put(ground, letters) if letters else []
        meant = [i for i, letter in zip(ids, letters, strict=True) if is_meant(letter, wanted)]
        assert [letter.id for letter in store.oldest_first(wanted)] == meant
        assert [letter.id for letter in store.newest(wanted, limit)] == meant[::-1][:limit]
        assert store.count(wanted) == len(meant)
        up_to = ids[len(ids) // 2] if ids else 0
        before = [letter_id for letter_id in meant if letter_id <= up_to]
        assert [letter.id for letter in store.oldest_first(wanted, up_to=up_to)] == before
        assert store.count(wanted, up_to=up_to) == len(before)
        by_id = dict(zip(ids, letters, strict=True))
        assert store.sinks(wanted) == {by_id[letter_id].sink for letter_id in meant}

    each()


def test_a_table_of_many_pages_is_read_whole(ground: Ground, store: LetterStore) -> None:
    ids = put(ground, [StoredLetter()] * 1_000)
    assert [letter.id for letter in store.oldest_first(Filter())] == ids


def test_list_shows_the_newest_dead_ones_and_says_how_many_there_are(
    ground: Ground, tmp_path: Path
) -> None:
    ids = put(ground, [StoredLetter(), DELIVERY, StoredLetter(state="replayed"), DELIVERY])
    done = dead_letters(ground, tmp_path, "list", "--json", "--limit", 2)
    document = json.loads(done.stdout)
    assert (document["version"], document["total"]) == (1, 3)
    assert [letter["id"] for letter in document["letters"]] == [ids[3], ids[1]]
    assert set(document["letters"][0]) == {
        *("id", "origin_id", "source_id", "stage", "sink", "reason", "error", "attempts"),
        *("first_at", "last_at", "state", "replays", "replayed_as", "resolved_at"),
        "payload_bytes",
    }
    shown = dead_letters(ground, tmp_path, "list", "--limit", 2)
    assert (shown.returncode, shown.stdout.splitlines()[-1]) == (
        0,
        "3 letters, 1 more not shown",
    )
    every = dead_letters(ground, tmp_path, "list", "--state", "all", "--sink", "billing", "--json")
    assert [letter["id"] for letter in json.loads(every.stdout)["letters"]] == [ids[3], ids[1]]
    none = dead_letters(ground, tmp_path, "list", "--since", "1h")
    assert (none.returncode, none.stdout) == (0, "0 letters\n")


def test_show_tells_all_and_the_payload_byte_by_byte(ground: Ground, tmp_path: Path) -> None:
    payload = HOSTILE.encode() + b"\xff\0"
    [number] = put(ground, [StoredLetter(payload=payload, key=KEY, fields=((b"\x1b", b"\xff"),))])
    shown = json.loads(dead_letters(ground, tmp_path, "show", number, "--json").stdout)
    assert (shown["letter"]["origin_id"], shown["letter"]["payload_bytes"]) == (
        "1-7",
        len(payload),
    )
    assert shown["history"] == [{"entry_id": "1-7", "error": "payload: not JSON"}]
    assert "payload" not in shown
    whole = dead_letters(ground, tmp_path, "show", number, "--json", "--payload").stdout
    assert base64.b64decode(json.loads(whole)["payload"]) == payload
    text = dead_letters(ground, tmp_path, "show", number, "--payload").stdout
    assert r"\x1b]0;owned\x07" in text
    assert text.replace("\n", "").isprintable()
    assert "there is no letter 99" in complaint(dead_letters(ground, tmp_path, "show", 99), 2)


def test_hostile_letters_do_nothing_to_a_terminal(ground: Ground, tmp_path: Path) -> None:
    hostile = StoredLetter(HOSTILE, HOSTILE, HOSTILE, HOSTILE, payload=HOSTILE.encode())
    [number] = put(ground, [hostile])
    for line in (
        ["list"],
        ["list", "--json"],
        ["show", number, "--payload"],
        ["discard", "--all", "--dry-run"],
        ["replay", number],
    ):
        done = dead_letters(ground, tmp_path, *line)
        said = done.stdout + "".join(x for x in done.stderr if not x.startswith("{"))
        assert said.replace("\n", "").isprintable(), line


# Words and orders that cannot be.


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["list", "--stage", "nowhere"], "--stage: 'nowhere' is unknown; there are: route"),
        (["list", "--sink", "nobody"], "--sink: 'nobody' is unknown; there are: audit, billing"),
        (["discard", "--all", "--reason", "bad"], "--reason: 'bad' is unknown"),
        # As of a variable that is not set.
        (["discard", "--all", "--sink", ""], "--sink: '' is unknown"),
        (["replay", "--all", "--stage", "\udcff\x1b"], r"--stage: '\udcff\x1b' is unknown"),
        (["replay", "1", "2", "99", "98"], "there is no letter 98, 99"),
        (["replay", "1", "3"], "letter 3 is replayed already"),
        (["replay", "1", "4"], "letter 4 is discarded already"),
        (["replay", "1", "6"], "no such sink is configured any more: 'old'"),
        (["replay", "1", "6", "--dry-run"], "no such sink is configured any more: 'old'"),
        (["replay", "--all", "--reason", "gave_up"], "no such sink is configured any more: 'old'"),
        (["discard", "1", "99"], "there is no letter 99"),
        (["discard", "1", "3"], "letter 3 is replayed already"),
        (["discard", "1", "5"], "letter 5 is being replayed"),
        (["discard", "1", "4", "--dry-run"], "letter 4 is discarded already"),
    ],
)
def test_an_order_that_cannot_be_carried_out_changes_nothing(
    ground: Ground, tmp_path: Path, line: list[str], said: str
) -> None:
    states = ["dead", "dead", "replayed", "discarded", "replaying"]
    letters = [StoredLetter(state=state) for state in states]
    put(ground, [*letters, StoredLetter("hook.old", "old", "gave_up")])
    before = everything(ground)
    done = dead_letters(ground, tmp_path, *line)
    lines = [x for x in done.stderr.splitlines() if not x.startswith("{")]
    assert (done.returncode, len(lines)) == (2, 1), done
    assert said in lines[0]
    assert everything(ground) == before


def test_words_of_letters_from_before_are_known(ground: Ground, tmp_path: Path) -> None:
    old = StoredLetter("hook.old", "old", "an older word")
    [number] = put(ground, [old])
    line = ["--stage", "hook.old", "--sink", "old", "--reason", "an older word"]
    assert (
        f"letter {number}:"
        in dead_letters(ground, tmp_path, "discard", "--all", "--dry-run", *line).stdout
    )


@pytest.mark.parametrize("line", [["replay", "--all"], ["replay", 1, 2], ["discard", "--all"]])
def test_a_dry_run_says_what_would_be_done_and_does_nothing(
    ground: Ground, tmp_path: Path, line: list[str]
) -> None:
    put(ground, [StoredLetter(), DELIVERY])
    before = everything(ground)
    done = dead_letters(ground, tmp_path, *line, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"would {line[0]} letter 1: route bad_entry 1-7" in done.stdout
    assert f"would {line[0]} 2 letters; nothing is changed" in done.stdout
    assert everything(ground) == before


@pytest.mark.parametrize("away", ["redis_url", "database_url"])
@pytest.mark.parametrize("line", [["replay", 1], ["replay", "--all"], ["discard", 1], ["list"]])
def test_a_server_that_is_away_ends_it_with_one_line(
    ground: Ground, tmp_path: Path, away: str, line: list[str]
) -> None:
    put(ground, [StoredLetter()])
    nowhere = "redis://127.0.0.1:1" if away == "redis_url" else "postgresql://127.0.0.1:1/x"
    done = dead_letters(ground, tmp_path, *line, **{away.upper(): nowhere})
    if away == "redis_url" and line[0] != "replay":
        assert done.returncode == 0  # it does not need Redis
        return
    complaint(done, 1)
    assert letter_table(ground)[1]["state"] == "dead"
