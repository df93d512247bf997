"""The page in a real browser: what the script does, and whether anything sticks out."""

import shutil

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None, reason="needs chromium and chromedriver"
)


@pytest.fixture(scope="module")
def browser(example, tmp_path_factory):
    """Chromium with the example page open."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        driver.get(example[1].as_uri())
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def wide(browser):
    return resized(browser, 1280)


def resized(browser, width, **media):
    features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    return browser


def table_of(browser, caption):
    return next(
        each
        for each in browser.find_elements(By.TAG_NAME, "table")
        if each.find_element(By.TAG_NAME, "caption").text == caption
    )


def column(table, place):
    return [
        float(cell.get_attribute("data-value") or "nan")
        for cell in table.find_elements(By.CSS_SELECTOR, f"tbody tr > :nth-child({place + 1})")
    ]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_and_every_figure_is_there(browser, width, scheme):
    resized(browser, width, prefers_color_scheme=scheme)
    sizes = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    scrolled, shown = browser.execute_script(sizes)
    assert scrolled <= shown <= width
    for image in browser.find_elements(By.TAG_NAME, "img"):
        natural = browser.execute_script("return arguments[0].naturalWidth", image)
        assert natural > 100
        assert image.size["width"] > 200
        assert image.size["height"] > 50
    drawings = browser.find_elements(By.CSS_SELECTOR, "svg[data-block]")
    assert len(drawings) == 4
    assert all(200 < drawing.size["width"] <= width for drawing in drawings)
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not errors


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_what_is_behind_them(browser, scheme):
    """Contrast of at least 4.5 (WCAG AA) for each kind of text."""
    resized(browser, 1280, prefers_color_scheme=scheme)
    script = """
    const parse = (c) => { const [r, g, b, a = 1] = c.match(/[\\d.]+/g).map(Number);
                           return { rgb: [r, g, b], a }; };
    const light = ({ rgb }) => {
      const [r, g, b] = rgb.map((v) => v / 255)
        .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (e) => {
      for (; e; e = e.parentElement) {
        const color = parse(getComputedStyle(e).backgroundColor);
        if (color.a === 1) return color;
      }
    };
    const found = {};
    for (const name of ["p", "a", "dt", "dd", "td", "th", "caption", "figcaption", ".read",
                        ".verdict b", ".missing", ".legend button", ".panel h4"]) {
      const e = document.querySelector(name);
      const [low, high] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort();
      found[name] = (Math.max(low, high) + 0.05) / (Math.min(low, high) + 0.05);
    }
    return found;
    """
    found = browser.execute_script(script)
    assert len(found) == 13
    assert min(found.values()) >= 4.5, found


def test_tables_sort_by_click_and_by_keyboard(wide):
    table = table_of(wide, "Latents; the 6 top genes of each")
    head = next(h for h in table.find_elements(By.CSS_SELECTOR, "thead th") if "KL" in h.text)
    place = table.find_elements(By.CSS_SELECTOR, "thead th").index(head)
    before = column(table, place)
    assert before != sorted(before)
    head.find_element(By.TAG_NAME, "button").click()
    assert column(table, place) == sorted(before)
    assert head.get_attribute("aria-sort") == "ascending"
    head.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert column(table, place) == sorted(before, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"


def test_cells_without_a_value_stay_at_the_end(wide):
    table = table_of(wide, "All scores")
    head = table.find_elements(By.CSS_SELECTOR, "thead th")[-1]
    for _ in range(2):
        head.find_element(By.TAG_NAME, "button").click()
        cells = table.find_elements(By.CSS_SELECTOR, "tbody tr > :last-child")
        assert [cell.text for cell in cells] == ["0.560", "–"]


def test_numbers_stand_right_and_hovering_shows_all_digits(wide, example):
    table = table_of(wide, "All scores")
    cell = table.find_element(By.CSS_SELECTOR, "tbody td.number[data-value]")
    assert cell.value_of_css_property("text-align") == "right"
    stored = set(map(repr, example[0].uns["scdisent"]["scores"]["value"].tolist()))
    assert cell.get_attribute("title") in stored


def test_hovering_over_a_point_shows_its_cell(wide, example):
    obs = example[0].obs
    drawing = wide.find_elements(By.CSS_SELECTOR, 'svg[data-block="invariant"]')[1]
    wide.execute_script("arguments[0].scrollIntoView({behavior: 'instant'})", drawing)
    script = """
    const [svg, cell] = arguments;
    const cells = JSON.parse(document.getElementById("cells").textContent);
    const { x, y } = cells.blocks.invariant;
    const at = new DOMPoint(x[cell], y[cell]).matrixTransform(svg.getScreenCTM());
    const event = new PointerEvent("pointermove", { clientX: at.x, clientY: at.y });
    svg.dispatchEvent(event);
    return document.getElementById("tip").innerText;
    """
    import numpy as np

    order = np.random.default_rng(0).permutation(len(obs))
    for place in (0, 7):
        row = obs.iloc[order[place]]
        shown = wide.execute_script(script, drawing, place)
        assert shown.splitlines() == [
            f"condition: {row['condition']}",
            f"cell type: {row['cell_type']}",
            f"donor: {row['donor']}",
        ]
        box = wide.find_element(By.ID, "tip")
        assert box.is_displayed()
        assert 0 <= box.rect["x"] <= 1280 - box.rect["width"]


def test_points_can_be_read_by_keyboard(wide):
    drawing = wide.find_element(By.CSS_SELECTOR, 'svg[data-block="specific"]')
    drawing.send_keys(Keys.ARROW_RIGHT)
    first = wide.find_element(By.CSS_SELECTOR, ".aloud").get_attribute("textContent")
    drawing.send_keys(Keys.ARROW_RIGHT)
    second = wide.find_element(By.CSS_SELECTOR, ".aloud").get_attribute("textContent")
    assert first.startswith("condition: ")
    assert "cell type: " in second
    rings = wide.find_elements(By.CSS_SELECTOR, ".ring[visibility=visible]")
    assert len(rings) == 2, "the same cell in both panels of the block"


def test_a_level_stands_alone_when_its_name_is_clicked(wide):
    panel = wide.find_element(By.CSS_SELECTOR, ".panel")
    button = panel.find_element(By.CSS_SELECTOR, ".legend button")
    faint = (
        "return [...arguments[0].querySelectorAll('path')].map(p => getComputedStyle(p).opacity)"
    )
    button.click()
    assert set(wide.execute_script(faint, panel)) == {"1", "0.05"}
    button.click()
    assert set(wide.execute_script(faint, panel)) == {"1"}


def test_print_shows_everything_on_paper(wide):
    wide.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    paper = {"width": 718, "height": 1000, "deviceScaleFactor": 1, "mobile": False}  # A4
    wide.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", paper)
    cut = wide.execute_script(
        "return [...document.querySelectorAll('.scroll > *, svg[data-block]')]"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
        ".map(e => (e.querySelector('caption') || e).textContent)"
    )
    assert not cut
    assert not wide.find_element(By.TAG_NAME, "nav").is_displayed()
    names = [e.text for e in wide.find_elements(By.CSS_SELECTOR, ".legend .level")]
    assert {"control", "stimulated", "B", "T"} == set(names)
