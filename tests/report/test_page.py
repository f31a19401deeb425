"""The report in a real browser: it opens without a word on the console, its browser of recordings works with mouse and
keyboard, names can be given and saved, and names of records that look like markup stay text."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from ecgscale.evaluate.written import write_evaluation
from ecgscale.report.html import write_report
from ecgscale.report.subject import NAMES_FILE, open_subject, read_names
from tests.report.conftest import OpenPage
from tests.worlds.published.page_root import HOSTILE, IMAGE, MODEL_ID, QUOTED, SCRIPT, K, PublishedRoot, publish_by_hand


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> PublishedRoot:
    return publish_by_hand(tmp_path_factory.mktemp("hostile"), records=60, renamed=HOSTILE)


@pytest.fixture(scope="module")
def page(hostile: PublishedRoot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(open_subject(hostile.root), tmp_path_factory.mktemp("page"), 60).path


def find(driver: Any, selector: str) -> Any:
    return driver.find_element("css selector", selector)


def all_of(driver: Any, selector: str) -> list[Any]:
    return list(driver.find_elements("css selector", selector))


def shown_id(driver: Any) -> str:
    return str(find(driver, "#record-id").text)


def listed(driver: Any) -> list[str]:
    return [element.text for element in all_of(driver, "#list .id")]


def choose(driver: Any, selector: str, value: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(find(driver, selector)).select_by_value(value)


def press(element: Any, *names: str) -> None:
    from selenium.webdriver.common.keys import Keys

    element.send_keys(*[getattr(Keys, name) for name in names])


def test_it_opens_and_shows_a_recording(page: Path, open_page: OpenPage) -> None:
    driver = open_page(page)
    assert len(listed(driver)) == 59, "all explained records, the quarantined one left out"
    assert shown_id(driver) == listed(driver)[0] == "sim0-0000059", "the most uncertain first"
    assert [element.text for element in all_of(driver, "#time .lead")] == [
        *("I", "aVR", "V1", "V4", "II", "aVL", "V2", "V5", "III", "aVF", "V3", "V6", "II")
    ]
    assert len(all_of(driver, "#time path.trace")) == 13 + 4, "thirteen leads, four calibration pulses"
    assert len(all_of(driver, ".card")) == K
    width = driver.execute_script("return document.querySelector('#time svg').getBoundingClientRect().width")
    assert width == pytest.approx((15 + 5.0 * 25 + 7) / 25.4 * 96, abs=1), "a millimetre is a millimetre"


def test_click_filter_and_search(page: Path, open_page: OpenPage) -> None:
    driver = open_page(page)
    fifth = all_of(driver, "#list li")[4]
    fifth.click()
    assert shown_id(driver) == listed(driver)[4]
    assert fifth.get_attribute("aria-selected") == "true"
    choose(driver, "#class", "MI")
    assert 0 < len(listed(driver)) < 59
    assert all("MI" in element.text for element in all_of(driver, "#list .line span:first-child"))
    assert shown_id(driver) in listed(driver)
    choose(driver, "#class", "")
    choose(driver, "#reason", "label disagreement")
    assert 0 < len(listed(driver)) < 59
    choose(driver, "#reason", "")
    find(driver, "#search").send_keys("0000017")
    assert listed(driver) == ["sim0-0000017"] == [shown_id(driver)]
    assert find(driver, "#found").text == "1 of 59 recordings"


def test_keyboard_walks_the_list_and_the_paper(page: Path, open_page: OpenPage) -> None:
    driver = open_page(page)
    entries, paper = find(driver, "#list"), find(driver, "#time")
    press(entries, "ARROW_DOWN", "ARROW_DOWN", "ARROW_UP")
    assert shown_id(driver) == listed(driver)[1]
    press(entries, "END")
    assert shown_id(driver) == listed(driver)[-1]
    assert find(driver, "#list [aria-selected=true]").get_attribute("id") == entries.get_attribute(
        "aria-activedescendant"
    )
    press(paper, "ARROW_RIGHT")
    assert paper.get_attribute("aria-valuenow") == "0.04"
    press(paper, "SHIFT", "ARROW_RIGHT")
    # Segments are 62 steps of 10 ms.
    assert paper.get_attribute("aria-valuenow") == "0.62"
    assert paper.get_attribute("aria-valuetext") == "0.62 seconds, cluster 1, entropy 0.25"
    assert "from 0.62 to 1.24 s" in find(driver, "#readout").text
    press(paper, "END")
    assert float(paper.get_attribute("aria-valuenow")) == 5.0
    assert "not explained here" in find(driver, "#readout").text


def test_pointing_tells_time_cluster_and_entropy(page: Path, open_page: OpenPage) -> None:
    driver = open_page(page)
    driver.execute_script(
        """const paper = document.querySelector("#time svg"), box = paper.getBoundingClientRect(), mm = box.width / 147;
        paper.dispatchEvent(new PointerEvent("pointermove", {bubbles: true,
            clientX: box.left + (15 + 25 * 2.0) * mm, clientY: box.top + 100}));"""
    )
    assert find(driver, "#readout").text.split("\n")[0].startswith("2.00 s")
    assert "cluster 3" in find(driver, "#readout").text
    chips = all_of(driver, "#chips .chip")
    assert sorted(int(chip.text.split()[0]) for chip in chips) == list(range(K))
    driver.execute_script("arguments[0].click()", chips[0])
    assert chips[0].get_attribute("aria-pressed") == "true"
    assert 0 < len(all_of(driver, "#time .off")) < len(all_of(driver, "#time rect"))


def test_the_label_audit_opens_recordings(hostile: PublishedRoot, tmp_path: Path, open_page: OpenPage) -> None:
    rows = [{"record_id": name, "quality": 0.1, "label": ["MI"], "network": []} for name in (SCRIPT, "not held")]
    facts = {"records": 2, "top": rows}
    path = write_evaluation(hostile.root, hostile.dataset_id, "audit-superclasses", facts)
    driver = open_page(write_report(open_subject(hostile.root), tmp_path, 12).path)
    path.unlink()
    choose(driver, "#reason", "most uncertain")
    first, second = all_of(driver, "#audit button.open")
    driver.execute_script("arguments[0].click()", first)
    assert shown_id(driver) == SCRIPT == first.text
    assert not second.is_enabled()


def test_twelve_leads_in_full(page: Path, open_page: OpenPage) -> None:
    driver = open_page(page)
    choose(driver, "#layout", "stacked")
    assert len(all_of(driver, "#time .lead")) == 12


def test_names_are_shown_at_once_and_saved(page: Path, hostile: PublishedRoot, open_page: OpenPage) -> None:
    driver = open_page(page)
    field = find(driver, ".card[data-cluster='0'] input")
    field.send_keys(f"P wave {IMAGE}")
    assert find(driver, "#saved").text == "1 name not saved yet"
    assert f"P wave {IMAGE}" in find(driver, "#readout").text
    find(driver, "#save").click()
    saved = Path(driver.downloads) / "names.json"
    for _ in range(50):
        if saved.is_file():
            break
        time.sleep(0.1)
    assert json.loads(saved.read_text()) == {"model_id": MODEL_ID, "names": {"0": f"P wave {IMAGE}"}}
    model = hostile.root / "models" / MODEL_ID
    (model / NAMES_FILE).write_text(saved.read_text())
    assert read_names(model, K) == {0: f"P wave {IMAGE}"}
    again = write_report(open_subject(hostile.root), page.parent / "again", 5).path
    (model / NAMES_FILE).unlink()
    driver = open_page(again)
    assert find(driver, ".card[data-cluster='0'] input").get_attribute("value") == f"P wave {IMAGE}"


def test_hostile_names_stay_text(page: Path, open_page: OpenPage) -> None:
    driver = open_page(page)
    names = listed(driver)
    for name in (SCRIPT, IMAGE, QUOTED, "{{ 7 * 7 }} & <!--"):
        assert name in names
        all_of(driver, "#list li")[names.index(name)].click()
        assert shown_id(driver) == name
    assert driver.execute_script("return window.hacked") is None
    assert not all_of(driver, "img")
    assert len(all_of(driver, "script")) == 4
    options = [option.text for option in all_of(driver, "#class option")]
    assert f"NORM {SCRIPT}" in options
    assert f"NORM {SCRIPT}" in [cell.text for cell in all_of(driver, "table.matrix tbody th")]


def test_print_is_black_on_white_without_what_is_for_hands(page: Path, open_page: OpenPage) -> None:
    driver = open_page(page)
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": dark})
    hidden = driver.execute_script(
        "return [...document.querySelectorAll('nav, .choose, .toolbar')].map((e) => getComputedStyle(e).display)"
    )
    ground = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    assert set(hidden) == {"none"}
    assert ground == "rgb(255, 255, 255)"


@pytest.mark.parametrize(("width", "scheme"), [(1400, "dark"), (640, "light")])
def test_it_fits_narrow_windows_and_dark_rooms(page: Path, open_page: OpenPage, width: int, scheme: str) -> None:
    """640 pixels are what is left of 1,280 at 200 % zoom."""
    driver = open_page(page)
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    wide = driver.execute_script("return document.documentElement.scrollWidth")
    ground = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert wide <= width, "what is wider scrolls in a box of its own"
    assert ground == ("rgb(19, 21, 24)" if scheme == "dark" else "rgb(255, 255, 255)")
