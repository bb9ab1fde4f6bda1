"""What is handed in is worked on once, in order, and as much of it at a time as has gathered."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.together import Together


class Work:
    """Notes what it is given, and takes as long as the test wants."""

    def __init__(self, *, size_max: int = 100) -> None:
        self.done: list[list[int]] = []
        self.under_way = 0
        self.most_under_way = 0
        self.may_end = asyncio.Event()
        self.together: Together[int, int] = Together(self._work, name="work", size_max=size_max)

    async def _work(self, items: list[int]) -> int:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.may_end.wait()
        finally:
            self.under_way -= 1
        self.done.append(items)
        if 13 in items:
            raise ValueError("13")
        return sum(items)

    async def begun(self, *batches: list[int]) -> list[asyncio.Task[int]]:
        """Hand in batch after batch, each when all has begun that may begin."""
        tasks = []
        for batch in batches:
            tasks.append(asyncio.create_task(self.together.hand_in(batch)))
            for _ in range(10):
                await asyncio.sleep(0)
        return tasks


async def test_what_is_handed_in_at_one_moment_is_one_go() -> None:
    work = Work()
    work.may_end.set()
    answers = await asyncio.gather(*(work.together.hand_in([n, n]) for n in range(4)))
    assert work.done == [[0, 0, 1, 1, 2, 2, 3, 3]]
    assert answers == [12] * 4


async def test_two_goes_are_under_way_and_what_waits_is_the_third() -> None:
    work = Work()
    tasks = await work.begun([1], [2], [3], [4], [5])
    assert work.under_way == 2
    work.may_end.set()
    await asyncio.gather(*tasks)
    assert work.done == [[1], [2], [3, 4, 5]]
    assert work.most_under_way == 2


async def test_no_go_is_larger_than_it_may_be_unless_one_hands_in_more() -> None:
    work = Work(size_max=2)
    work.may_end.set()
    await asyncio.gather(*(work.together.hand_in(b) for b in ([1], [2], [3, 4, 5], [6])))
    assert work.done == [[1, 2], [3, 4, 5], [6]]


async def test_what_went_wrong_is_told_to_all_who_went_along_and_to_nobody_else() -> None:
    work = Work()
    tasks = await work.begun([1], [2], [13], [4])
    work.may_end.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert answers[:2] == [1, 2]
    assert [type(answer) for answer in answers[2:]] == [ValueError, ValueError]


async def test_who_is_cancelled_is_worked_for_all_the_same_and_the_others_are_answered() -> None:
    work = Work()
    tasks = await work.begun([1], [2], [3], [4])
    tasks[2].cancel()
    work.may_end.set()
    assert await tasks[3] == 7
    with suppress(asyncio.CancelledError):
        await tasks[2]
    assert tasks[2].cancelled()


async def test_a_go_that_is_cancelled_cancels_those_who_wait_for_it() -> None:
    work = Work()
    (task,) = await work.begun([1])
    (go,) = (task for task in asyncio.all_tasks() if task.get_name() == "work")
    go.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    work.may_end.set()
    assert await work.together.hand_in([2]) == 2


@settings(deadline=None)
@given(
    batches=st.lists(
        st.tuples(st.integers(0, 8), st.lists(st.integers(14, 99), min_size=1, max_size=4)),
        max_size=25,
    ),
    size_max=st.integers(1, 6),
)
async def test_all_is_worked_on_once_and_each_batch_in_one_piece(
    batches: list[tuple[int, list[int]]], size_max: int
) -> None:
    work = Work(size_max=size_max)
    work.may_end.set()

    async def hand_in(turns: int, batch: list[int]) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        await work.together.hand_in(batch)

    async with asyncio.timeout(5):
        await asyncio.gather(*(hand_in(*batch) for batch in batches))
    assert sorted(item for go in work.done for item in go) == sorted(
        item for _, batch in batches for item in batch
    )
    assert work.under_way == 0
    for go in work.done:
        assert len(go) <= max(size_max, 4)
