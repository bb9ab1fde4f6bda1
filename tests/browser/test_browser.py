"""The page in a real browser: it lives, can be reached and read by everybody, and is inert."""

from __future__ import annotations

import base64
import json
import os
import time
import uuid
from collections.abc import Callable
from typing import Any

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from streams.ids import format_capsule_id
from tests.browser.conftest import TOKEN, Scene, console, event, show
from tests.worker_process import ROOT

PHONE = (360, 740)
#: So high that the graph is all to be seen.
WHOLE = (1280, 1420)
HOSTILE = "<script>window.hacked=1</script><img src=x onerror='window.hacked=1'>"


def wait(browser: Chrome, check: Callable[[], Any], timeout_s: float = 15) -> Any:
    return WebDriverWait(browser, timeout_s, poll_frequency=0.1).until(lambda _: check())


def text_of(browser: Chrome, selector: str) -> str:
    return str(browser.find_element(By.CSS_SELECTOR, selector).get_property("textContent"))


def node(browser: Chrome, name: str) -> str:
    """Return the selector of a node of the graph."""
    number = browser.execute_script(
        "return [...document.querySelectorAll('.node')]"
        ".find(n => n.querySelector('title').textContent === arguments[0]).dataset.stateOf",
        name,
    )
    return f".node[data-state-of='{number}']"


def colour(browser: Chrome, selector: str, of: str = "fill") -> tuple[int, int, int]:
    text = browser.execute_script(
        "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]", selector, of
    )
    red, green, blue, *_ = (int(part) for part in text.strip("rgba()").split(","))
    return red, green, blue


def take_picture(browser: Chrome, name: str) -> None:
    """Keep what is seen, for the documents, where that is asked for."""
    if not os.environ.get("SCREENSHOTS"):
        return
    folder = ROOT / "docs" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    (folder / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))


def log_in(browser: Chrome, scene: Scene) -> None:
    browser.get(f"{scene.url}/topology/login")
    browser.find_element(By.ID, "token").send_keys(TOKEN + Keys.ENTER)
    wait(browser, lambda: "dead-letters" in browser.current_url)


def dead_letter(scene: Scene, browser: Chrome, error_has: str) -> str:
    """Wait for a letter, and return its number."""

    def find() -> Any:
        with scene.ground.cursor() as cursor:
            cursor.execute(
                "select id from capsule_reconciler.dead_letters"
                " where position(%s in convert_from(payload, 'utf-8')) > 0",
                (error_has,),
            )
            return cursor.fetchone()

    return str(wait(browser, find)[0])


def deaths(scene: Scene, number: str) -> int:
    with scene.ground.cursor() as cursor:
        cursor.execute(
            "select jsonb_array_length(history) from capsule_reconciler.dead_letters where id = %s",
            (number,),
        )
        (count,) = cursor.fetchone()
    return int(count)


def test_figures_change_without_a_reload_while_events_flow(browser: Chrome, scene: Scene) -> None:
    browser.get(f"{scene.url}/topology")
    browser.execute_script("window.isTheSame = true")
    wait(browser, lambda: text_of(browser, "#link") == "live")
    delivered = "[data-cell='s0.delivered']"
    before = int(text_of(browser, delivered).replace(",", ""))
    with scene.flow(300):
        wait(browser, lambda: int(text_of(browser, delivered).replace(",", "")) > before + 200)
        wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, ".edge.flowing"))
        wait(browser, lambda: "/s" in text_of(browser, f"{node(browser, 'route')} .caption"))
        red, green, blue = colour(browser, f"{node(browser, 'route')} rect")
        assert green > max(red, blue)
        for _ in range(3):
            changed(browser, "#at")
        show(browser, *WHOLE)
        take_picture(browser, "topology-light")
        show(browser, *WHOLE, dark=True)
        take_picture(browser, "topology-dark")
        show(browser, *PHONE)
        take_picture(browser, "topology-phone")
    assert browser.execute_script("return window.isTheSame") is True
    assert "worker-1" in text_of(browser, "#workers")
    assert "capsules 0-15" in text_of(browser, "#workers")


def test_a_sink_that_is_down_is_red_and_says_why(browser: Chrome, scene: Scene) -> None:
    browser.get(f"{scene.url}/topology")
    wait(browser, lambda: text_of(browser, "#link") == "live")
    scene.sink_is_down.set()
    try:
        scene.publish(event(uuid.uuid4()))
        sink = node(browser, "sink.billing")
        wait(browser, lambda: browser.find_element(By.CSS_SELECTOR, sink).get_attribute(
            "data-state") == "blocked")  # fmt: skip
        red, green, blue = colour(browser, f"{sink} rect", "stroke")
        assert red > 2 * max(green, blue)
        # It says the latter as soon as enough attempts have failed.
        because = text_of(browser, "[data-cell='s0.state']")
        assert "waits for sink.billing" in because or "its breaker is open" in because
        assert text_of(browser, "[data-cell='s0.blocked_by']") == "sink.billing"
        assert "sink.billing is blocked" in text_of(browser, "#alerts")
        label = browser.find_element(By.CSS_SELECTOR, sink).get_attribute("aria-label")
        assert label == "sink sink.billing, blocked"
        other = browser.find_element(By.CSS_SELECTOR, node(browser, "sink.audit"))
        assert other.get_attribute("data-state") != "blocked"
        show(browser, *WHOLE)
        take_picture(browser, "topology-blocked")
    finally:
        scene.sink_is_down.clear()
    wait(browser, lambda: browser.find_element(By.CSS_SELECTOR, sink).get_attribute(
        "data-state") != "blocked", 30)  # fmt: skip
    wait(browser, lambda: text_of(browser, "#alerts") == "")


def changed(browser: Chrome, selector: str) -> None:
    """Wait until there is another text."""
    before = text_of(browser, selector)
    wait(browser, lambda: text_of(browser, selector) != before)


def reloaded(browser: Chrome, check: Callable[[], Any]) -> Any:
    """Return what `check` says, and look at the page anew where it says no."""
    found = check()
    if not found:
        browser.refresh()
    return found


def focused(browser: Chrome) -> Any:
    return browser.switch_to.active_element


def test_everything_can_be_reached_by_keyboard_and_is_seen_there(
    browser: Chrome, scene: Scene
) -> None:
    browser.get(f"{scene.url}/topology")
    wait(browser, lambda: text_of(browser, "#link") == "live")
    body = browser.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.TAB)
    skip = focused(browser)
    assert skip.get_attribute("class") == "skip"
    assert skip.rect["x"] >= 0
    reached = set()
    for _ in range(80):
        focused(browser).send_keys(Keys.TAB)
        element = focused(browser)
        if element.tag_name == "body":
            break
        if name := element.get_attribute("data-state-of"):
            assert element.get_attribute("aria-label")
            width = browser.execute_script(
                "return getComputedStyle(arguments[0].querySelector('rect')).strokeWidth", element
            )
            assert width == "4px"
            reached.add(name)
        else:
            outline = element.value_of_css_property("outline-style")
            assert outline == "solid", element.get_attribute("outerHTML")
    nodes = {
        element.get_attribute("data-state-of")
        for element in browser.find_elements(By.CSS_SELECTOR, ".node")
    }
    assert reached == nodes
    last = browser.find_element(By.CSS_SELECTOR, node(browser, "route"))
    browser.execute_script("arguments[0].focus()", last)
    focused(browser).send_keys(Keys.ENTER)
    row = f"row-{last.get_attribute('data-state-of')}"
    wait(browser, lambda: browser.current_url.endswith(f"#{row}"))
    assert browser.execute_script("return document.querySelector(':target').id") == row


def test_a_phone_needs_not_scroll_to_the_side(browser: Chrome, scene: Scene) -> None:
    show(browser, *PHONE)
    capsule = format_capsule_id(uuid.uuid4())
    for path in (
        "",
        "/dead-letters?state=all",
        f"/capsule?id={capsule}",
        "/login",
        "/sinks/billing",
    ):
        browser.get(f"{scene.url}/topology{path}")
        if not path:
            wait(browser, lambda: text_of(browser, "#link") == "live")
        width = browser.execute_script("return document.documentElement.scrollWidth")
        assert (path, width) == (path, PHONE[0])


def test_in_the_dark_the_ground_is_dark_and_the_ink_light(browser: Chrome, scene: Scene) -> None:
    browser.get(f"{scene.url}/topology")
    assert sum(colour(browser, "body", "backgroundColor")) > 700
    show(browser, 1280, 900, dark=True)
    assert sum(colour(browser, "body", "backgroundColor")) < 120
    assert sum(colour(browser, "body", "color")) > 600
    for name in ("route", "capsules"):
        assert sum(colour(browser, f"{node(browser, name)} rect")) < 300
        assert sum(colour(browser, f"{node(browser, name)} text.name")) > 600


def test_hostile_text_is_shown_and_does_nothing(browser: Chrome, scene: Scene) -> None:
    scene.publish(event(uuid.uuid4(), timestamp=[HOSTILE], event=HOSTILE, resource=HOSTILE))
    number = dead_letter(scene, browser, "onerror")
    for path in ("/dead-letters?state=all", f"/dead-letters/{number}",
                 "/capsule?id=%3Cscript%3Ewindow.hacked=1%3C/script%3E",
                 "/dead-letters?stage=%22%3E%3Cscript%3Ewindow.hacked=1%3C/script%3E"):  # fmt: skip
        browser.get(f"{scene.url}/topology{path}")
        assert browser.execute_script("return window.hacked") is None
        assert browser.find_elements(By.CSS_SELECTOR, "main script, main img") == []
    browser.get(f"{scene.url}/topology/dead-letters/{number}")
    assert "<img src=x onerror" in text_of(browser, "pre")
    # Also what comes later, as an event.
    with scene.ground.redis() as client:
        said = {"at_s": time.time(), "worker": HOSTILE, "version": HOSTILE, "up_s": 1, "cpu": 0,
                "rss_bytes": 1, "not_ready": HOSTILE, "partitions": {}, "flows": [], "stages": {},
                "lanes": {}}  # fmt: skip
        browser.get(f"{scene.url}/topology")
        wait(browser, lambda: text_of(browser, "#link") == "live")
        key = next(key for key in client.scan_iter("*:figures"))
        client.hset(key, HOSTILE, json.dumps(said))
        try:
            wait(browser, lambda: "onerror" in text_of(browser, "#workers"))
            assert "onerror" in text_of(browser, "#alerts")
        finally:
            client.hdel(key, HOSTILE)
    assert browser.execute_script("return window.hacked") is None
    assert browser.find_elements(By.CSS_SELECTOR, "main img") == []
    # Were there a way in all the same, the policy would stop it.
    browser.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.hacked = 1';"
        "document.body.append(s)"
    )
    assert browser.execute_script("return window.hacked") is None
    assert any("Content Security Policy" in line["message"] for line in console(browser))


def test_a_letter_is_replayed_from_the_page_with_the_token_and_not_otherwise(
    browser: Chrome, scene: Scene
) -> None:
    word = uuid.uuid4().hex
    scene.publish(event(uuid.uuid4(), team_id=7, note=word))
    number = dead_letter(scene, browser, word)
    browser.get(f"{scene.url}/topology/dead-letters")
    assert browser.find_elements(By.CSS_SELECTOR, "main button") != []
    assert browser.find_elements(By.NAME, "form_token") == []
    log_in(browser, scene)
    box = browser.find_element(By.CSS_SELECTOR, f"input[name=id][value='{number}']")
    box.send_keys(Keys.SPACE)
    take_picture(browser, "dead-letters")
    # A form of another site, in this same browser: no cookie goes along, and the origin is wrong.
    browser.execute_script("window.open('about:blank')")
    first, second = browser.window_handles
    browser.switch_to.window(second)
    page = (
        f"<form method=post action='{scene.url}/topology/dead-letters/replay'>"
        f"<input name=id value={number}><input name=form_token value=x></form>"
    )
    browser.get("data:text/html;base64," + base64.b64encode(page.encode()).decode())
    browser.execute_script("document.forms[0].submit()")
    wait(browser, lambda: "Refused" in browser.title)
    browser.close()
    browser.switch_to.window(first)
    assert deaths(scene, number) == 1
    button = browser.find_element(By.XPATH, "//button[text()='Replay those chosen']")
    button.click()
    wait(browser, lambda: "1 letters replayed" in text_of(browser, "main"))
    # What was wrong with it still is.
    wait(browser, lambda: deaths(scene, number) == 2)


def test_a_capsule_is_found_by_its_id(browser: Chrome, scene: Scene) -> None:
    capsule, word = uuid.uuid4(), uuid.uuid4().hex
    with scene.ground.cursor() as cursor:
        cursor.execute(
            "insert into sandboxes (id, team_id, status) values (%s, %s, 'pausing')",
            (str(capsule), str(uuid.UUID(int=1))),
        )
    scene.publish(event(capsule))
    scene.publish(event(capsule, timestamp=7, note=word))
    number = dead_letter(scene, browser, word)
    browser.get(f"{scene.url}/topology/capsule")
    browser.find_element(By.ID, "id").send_keys(format_capsule_id(capsule) + Keys.ENTER)
    wait(browser, lambda: reloaded(browser, lambda: "paused" in browser.page_source))
    assert "status" in text_of(browser, "#row")
    assert browser.find_element(By.CSS_SELECTOR, "#letters a").text == number
    scene.sink_is_down.set()
    try:
        scene.publish(event(capsule))
        browser.refresh()
        # It passes other stages before.
        waiting = "#waiting"
        wait(
            browser,
            lambda: reloaded(
                browser,
                lambda: (
                    browser.find_elements(By.CSS_SELECTOR, waiting)
                    and "hooks.billing:" in text_of(browser, waiting)
                ),
            ),
        )
        assert "with " in text_of(browser, "#waiting")
        take_picture(browser, "capsule")
        browser.get(f"{scene.url}/topology/sinks/billing")
        rows = "#deliveries tbody tr"
        wait(
            browser,
            lambda: reloaded(
                browser,
                lambda: any(
                    format_capsule_id(capsule) in row.text and "retrying" in row.text
                    for row in browser.find_elements(By.CSS_SELECTOR, rows)
                ),
            ),
        )
        assert "delivered" in text_of(browser, "#deliveries")
        take_picture(browser, "sink")
    finally:
        scene.sink_is_down.clear()
