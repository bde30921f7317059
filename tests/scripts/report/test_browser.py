"""How the pages of a report behave in a browser."""

from __future__ import annotations

import json
import shutil
import time

import numpy as np
import pytest

from scripts.files import write_json
from scripts.report.pages import write_report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium that logs its console."""
    pytest.importorskip("selenium", reason="pages are tried in a browser with selenium, of the extra [dev]")
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("no chromium and chromedriver on this machine (Debian: apt-get install chromium chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    off = "quic", "background-networking", "component-update", "sync", "gpu"
    flags = ["headless", "no-sandbox", "no-first-run", *(f"disable-{name}" for name in off), "window-size=1280,900"]
    for flag in (*flags, f"user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
    yield driver
    driver.quit()


def opened(browser, page):
    browser.get(page.as_uri())
    assert browser.get_log("browser") == []
    assert_nothing_was_fetched(browser)


def assert_nothing_was_fetched(browser):
    names = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in names if not name.startswith(("file:", "data:"))] == []


def column(browser, place):
    return browser.execute_script(
        "return [...document.querySelectorAll('.index tbody tr')].filter((row) => !row.hidden)"
        f".map((row) => row.cells[{place}].textContent)"
    )


def fill(browser, name, value):
    browser.execute_script(
        "const input = document.querySelector(`.index [data-filter=${arguments[0]}]`);"
        "if (input.type === 'checkbox') input.checked = arguments[1]; else input.value = arguments[1];"
        "input.dispatchEvent(new Event('input'))",
        name,
        value,
    )


def test_index_sorts_and_filters_in_a_browser(browser, many):
    opened(browser, write_report(many))
    heads = browser.find_elements("css selector", ".index th button")
    heads[1].click()
    found = [float(text) for text in column(browser, 1)]
    assert found == sorted(found)
    heads[1].click()
    assert [float(text) for text in column(browser, 1)] == sorted(found, reverse=True)
    fill(browser, "text", "0001")
    assert set(column(browser, 0)) == {"00001", *(f"000{number}" for number in range(10, 19))}
    fill(browser, "text", "")
    fill(browser, "low", "0.25")
    fill(browser, "high", "0.75")
    assert sorted(map(float, column(browser, 1))) == [value for value in sorted(found) if 0.25 <= value <= 0.75]
    fill(browser, "failed", True)
    assert column(browser, 0) == ["00999"]
    assert "1 of 20" in browser.find_element("css selector", "[data-count]").text
    browser.find_element("link text", "00999").click()
    assert "Patient 00999" in browser.title
    assert browser.get_log("browser") == []


def pixels(browser):
    """What the first viewer shows, as RGB."""
    # the copy is made for reading, or Chromium would complain of it in the console
    data = browser.execute_script(
        "const shown = document.querySelector('.stage canvas'), copy = document.createElement('canvas');"
        "[copy.width, copy.height] = [shown.width, shown.height];"
        "const context = copy.getContext('2d', { willReadFrequently: true });"
        "context.drawImage(shown, 0, 0);"
        "return [copy.width, ...context.getImageData(0, 0, copy.width, copy.height).data]"
    )
    return np.array(data[1:]).reshape(-1, data[0], 4)[..., :3]


def wait_for(condition):
    for _ in range(100):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def test_viewer_in_a_browser(browser, prediction, made_up):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    page = write_report(prediction)
    opened(browser, page.parent / "patients" / "00001.html")
    first, second = browser.find_elements("css selector", ".viewer")
    stage = first.find_element("css selector", ".stage")
    shown = lambda: [int(viewer.get_attribute("data-slice")) for viewer in (first, second)]  # noqa: E731
    wait_for(lambda: pixels(browser).max() > 0)
    start = shown()[0]
    assert start in made_up.kept
    stage.send_keys(Keys.HOME)
    assert shown() == [0, 0]
    stage.send_keys(Keys.ARROW_DOWN)
    assert shown() == [1, 1]
    ActionChains(browser).scroll_from_origin(_origin(stage), 0, 20).perform()
    wait_for(lambda: shown() == [2, 2])
    browser.find_element("css selector", "[data-together]").click()
    stage.send_keys(Keys.END)
    assert shown() == [11, 2]
    stage.send_keys(*[Keys.ARROW_UP] * 6)
    assert shown() == [5, 2]
    assert "used" in first.find_element("css selector", ".place").text
    letters = {
        edge: first.find_element("css selector", f".stage .{edge}").text for edge in ("left", "right", "top", "bottom")
    }
    assert letters == {"left": "R", "right": "L", "top": "A", "bottom": "P"}
    masked = pixels(browser)
    assert (masked.max(-1) - masked.min(-1)).max() > 60  # coloured
    for layer in ("wt", "et"):
        browser.find_element("css selector", f"[data-layer={layer}]").click()
    plain = pixels(browser)
    assert (plain.max(-1) - plain.min(-1)).max() < 12  # grey
    browser.find_element("css selector", "[data-layer=heat]").click()
    wait_for(lambda: (pixels(browser) != plain).any())
    assert browser.get_log("browser") == []
    assert_nothing_was_fetched(browser)


def test_from_a_cross_validation_to_a_patient_in_a_browser(browser, folds):
    from selenium.webdriver.common.action_chains import ActionChains

    opened(browser, write_report(folds))
    browser.find_elements("css selector", ".index th button")[3].click()
    assert column(browser, 0)[0] == "00001"
    fill(browser, "text", "00002")
    assert column(browser, 0) == ["00002"]
    browser.find_element("css selector", ".index").find_element("link text", "00002").click()
    assert browser.title == "Patient 00002"
    viewer = browser.find_element("css selector", ".viewer")
    wait_for(lambda: pixels(browser).max() > 0)
    start = int(viewer.get_attribute("data-slice"))
    stage = viewer.find_element("css selector", ".stage")
    ActionChains(browser).scroll_to_element(stage).scroll_from_origin(_origin(stage), 0, 20).perform()
    wait_for(lambda: int(viewer.get_attribute("data-slice")) == start + 1)
    assert browser.get_log("browser") == []
    assert_nothing_was_fetched(browser)


def test_the_first_column_of_a_wide_table_stays_in_sight(browser, cross_validation):
    metrics = json.loads((cross_validation / "metrics.json").read_text())
    metrics["ensembles"] = {name: {f"score {number}": number for number in range(40)} for name in ("mean", "stacked")}
    write_json(metrics, cross_validation / "metrics.json")
    opened(browser, write_report(cross_validation))
    scrolled = browser.execute_script(
        "const box = [...document.querySelectorAll('.scroll')].find((one) => one.scrollWidth > one.clientWidth);"
        "box.scrollLeft = 300;"
        "const edge = (one) => one.getBoundingClientRect().left;"
        "const cells = box.querySelector('tbody tr').cells;"
        "return [box.scrollLeft, edge(cells[0]) - edge(box), edge(cells[1]) - edge(box)]"
    )
    assert scrolled[0] == 300
    assert abs(scrolled[1]) < 1  # nothing shows between the edge and it
    assert scrolled[2] < 0


def _origin(stage):
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    return ScrollOrigin.from_element(stage)


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(browser, prediction, cross_validation, training, width):
    for run in (prediction, cross_validation, training):
        page = write_report(run)
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        opened(browser, page)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_script_that_is_not_ours_does_not_run(browser, many):
    """Should a name ever become markup all the same."""
    page = write_report(many)
    foreign = "<script>document.title = 'theirs'</script><img src='data:,' onerror=\"document.title = 'theirs'\">"
    page.write_text(page.read_text().replace("</main>", f"{foreign}</main>"))
    browser.get(page.as_uri())
    wait_for(lambda: browser.find_elements("css selector", "[data-count]")[0].text)  # our own has run
    assert "theirs" not in browser.title
    assert "Content Security Policy" in str(browser.get_log("browser"))
