"""The page at `/`: its files, its policy, and the page itself in a real Chromium."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import ConsoleMessage, Page, expect, sync_playwright

from proscale.config import Task
from proscale.formats.files import FORMATS
from proscale.results import Plan
from proscale.runtime import RuntimeConfig
from proscale_service.access.keys import hash_of, new_key
from proscale_service.page import FOLDER, HEADERS

from .predictors import ThresholdPredictor
from .serving import Running, http, in_process, metric, serving

EXAMPLES = Path(__file__).parents[2] / "examples"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]
FLAGS += ["--host-resolver-rules=MAP page.test 127.0.0.1"]


class TestFiles:
    def test_every_file_has_the_policy_and_nothing_comes_from_elsewhere(self, server: Running) -> None:
        for path in ["", *(f"page/{file.relative_to(FOLDER)}" for file in FOLDER.rglob("*.*"))]:
            answer = http.get(f"{server.url}/{path}")
            assert answer.status_code == 200, path
            assert HEADERS.items() <= dict(answer.headers).items()
        for file in FOLDER.glob("*.[hjc]*"):
            text = file.read_text()
            assert not re.search(r"""(src|href|from|import|url)\s*[=(]?\s*["']?(https?:)?//""", text), file
            assert not re.search(r"<script>|<style>|\son\w+=|\sstyle=", text), file

    def test_the_samples_are_the_examples(self) -> None:
        for sample in (FOLDER / "samples").iterdir():
            assert sample.read_bytes() == (EXAMPLES / sample.name).read_bytes()

    def test_the_page_offers_every_format(self) -> None:
        listed = (FOLDER / "main.js").read_text().split("const FORMATS = {")[1].split("};")[0]
        assert set(re.findall(r"(\w+): \"", listed)) == {"json", *FORMATS}

    def test_it_can_be_turned_off(self) -> None:
        with serving(ThresholdPredictor(), page=False) as server:
            assert http.get(f"{server.url}/", follow_redirects=False).headers["location"] == "/docs"


class Models:
    """Loads two models; the second can do semantic segmentation alone."""

    def __call__(self, runtime: RuntimeConfig) -> ThresholdPredictor:
        predictor = ThresholdPredictor()
        if str(runtime.checkpoint) == "b":
            predictor.info = replace(predictor.info, tasks=("semantic",))
        return predictor


class Published(ThresholdPredictor):
    """A network that is compared with itself as it was published."""

    def plan(self, height: int, width: int, tasks: Sequence[Task]) -> Plan:
        return replace(super().plan(height, width, tasks), baseline="the network as published")


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving(ThresholdPredictor()) as running:
        yield running


@pytest.fixture
def page() -> Iterator[Page]:
    """A page of a real browser; anything on its console that is an error fails the test."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium (Debian: chromium)")
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        # The browser itself reports answers such as 401 as errors; the page shows those in words.
        if (
            message.type in ("error", "warning")
            and "the server responded with a status" not in message.text
            and "ERR_CONNECTION_REFUSED" not in message.text
        ):
            complaints.append(message.text)

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
        opened = context.new_page()
        opened.on("console", note)
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        yield opened
        browser.close()
    assert not complaints


def drawn(page: Page) -> np.ndarray:
    """The canvas as people see it, (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(page.locator("#canvas").screenshot())).convert("RGB")).astype(int)


def open_sample(page: Page, server: Running, name: str = "scene") -> None:
    page.goto(server.url)
    page.get_by_role("button", name=name).click()
    expect(page.locator("#status")).to_contain_text("segments")
    expect(page.locator("#segments button").first).to_be_visible()


@pytest.mark.slow
class TestInABrowser:
    def test_a_sample_is_segmented_and_shown(self, page: Page, server: Running) -> None:
        open_sample(page, server)
        expect(page.locator("#count")).to_have_text("(2 of 2)")
        expect(page.locator("#cost")).to_contain_text("less than Mask2Former")
        expect(page.locator("#curl")).to_contain_text(f"{server.url}/segment")
        expect(page.locator("#model")).to_contain_text("threshold")
        with_masks = drawn(page)
        page.get_by_label("Opacity").fill("0")
        page.get_by_label("Outlines").uncheck()
        assert np.abs(with_masks - drawn(page)).max() > 60

    def test_filters_act_at_once(self, page: Page, server: Running) -> None:
        open_sample(page, server)
        before = drawn(page)
        page.get_by_role("checkbox", name="blob").uncheck()
        expect(page.locator("#count")).to_have_text("(1 of 2)")
        page.wait_for_timeout(300)
        assert (drawn(page) != before).any()
        page.get_by_label("Least score").fill("1")
        expect(page.locator("#count")).to_have_text("(0 of 2)")

    def test_masks_lie_where_the_json_answer_says(self, page: Page, server: Running, tmp_path: Path) -> None:
        picture = np.zeros((64, 96, 3), np.uint8)
        picture[20:45, 10:40] = 250
        Image.fromarray(picture).save(tmp_path / "box.png")
        page.goto(server.url)
        page.locator("#file").set_input_files(tmp_path / "box.png")
        expect(page.locator("#segments button").first).to_be_visible()
        box = page.locator("#canvas").bounding_box()
        assert box is not None
        scale = min(box["width"] / 96, box["height"] / 64)
        left, top = box["x"] + (box["width"] - 96 * scale) / 2, box["y"] + (box["height"] - 64 * scale) / 2
        for x, y, label in ((10.6, 20.6, "blob"), (39.4, 44.4, "blob"), (9.4, 30, "ground"), (40.6, 30, "ground"), (20, 45.6, "ground")):
            page.mouse.move(left + x * scale, top + y * scale)
            expect(page.locator("#tip")).to_contain_text(label)

    def test_pictures_are_pasted_and_dropped(self, page: Page, server: Running) -> None:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.url)
        page.goto(server.url)
        page.evaluate("""async () => {
            const picture = await (await fetch("page/samples/scene.png")).blob();
            await navigator.clipboard.write([new ClipboardItem({"image/png": picture})]);
        }""")
        page.keyboard.press("Control+V")
        expect(page.locator("#queue button")).to_have_count(1)
        expect(page.locator("#count")).to_have_text("(2 of 2)")
        page.evaluate("""async () => {
            const files = new DataTransfer();
            files.items.add(new File([await (await fetch("page/samples/nuclei.jpg")).blob()], "dropped.jpg"));
            document.body.dispatchEvent(new DragEvent("drop", {bubbles: true, cancelable: true, dataTransfer: files}));
        }""")
        expect(page.locator("#status")).to_contain_text("dropped.jpg: 2 segments")

    def test_the_programs_run_as_they_are_copied(self, page: Page, tmp_path: Path) -> None:
        keys, key = tmp_path / "keys.yaml", new_key()
        keys.write_text(f"keys: [{{name: somebody, hash: '{hash_of(key)}'}}]")
        odd = tmp_path / 'it\'s; "one", two.png'
        odd.write_bytes((EXAMPLES / "scene.png").read_bytes())
        environment = os.environ | {"PROSCALE_API_KEY": key}
        with serving(ThresholdPredictor(), keys_file=keys) as server:
            # Not localhost, and no https: browsers keep the clipboard's newer interface from such pages.
            page.goto(server.url.replace("127.0.0.1", "page.test"))
            page.evaluate("document.addEventListener('copy', () => { window.copied = getSelection().toString() })")
            page.locator("#file").set_input_files([odd, EXAMPLES / "nuclei.jpg"])
            page.get_by_label("This server asks for an API key").fill(key)
            page.get_by_role("button", name="Use it").click()
            expect(page.locator("#status")).to_have_text("2 of 2 pictures done")
            page.locator("summary").click()
            found = []
            for number, command in enumerate((["bash", "-c"], [sys.executable, "-c"])):
                page.get_by_role("button", name="Copy").nth(number).click()
                expect(page.locator("#status")).to_have_text("Copied.")
                program = page.evaluate("copied").replace("page.test", "127.0.0.1")
                assert key not in program
                found.append(subprocess.run([*command, program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True))
        assert {each["label"] for each in json.loads(found[0].stdout)["segments"]} == {"blob", "ground"}
        assert {line.split()[0] for line in found[1].stdout.splitlines()} == {"blob", "ground"}

    def test_every_format_is_downloaded_or_refused_in_words(self, page: Page, server: Running) -> None:
        open_sample(page, server)
        names = page.locator("#format option").evaluate_all("options => options.map((each) => each.value)")
        for name in names:
            page.locator("#format").select_option(name)
            if name != "json" and "panoptic" not in FORMATS[name].tasks:
                page.get_by_role("button", name="Download").click()
                expect(page.get_by_role("alert")).to_contain_text(f"{name} is for task=")
                continue
            with page.expect_download() as download:
                page.get_by_role("button", name="Download").click()
            assert download.value.suggested_filename.startswith("scene-"), name
            assert Path(download.value.path()).stat().st_size > 0, name

    def test_the_keyboard_stays_in_the_queue(self, page: Page, server: Running) -> None:
        page.goto(server.url)
        page.locator("#file").set_input_files([EXAMPLES / "nuclei.jpg", EXAMPLES / "scene.png"])
        expect(page.locator("#status")).to_have_text("2 of 2 pictures done")
        page.locator("#queue button").first.focus()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.locator("#queue button").nth(1)).to_have_attribute("aria-current", "true")
        expect(page.locator("#queue button").nth(1)).to_be_focused()

    def test_the_cost_is_compared_with_what_the_answer_names(self, page: Page) -> None:
        with serving(Published()) as server:
            open_sample(page, server)
            expect(page.locator("#cost")).to_contain_text("25% less than the network as published.")

    def test_a_server_that_is_gone_is_told(self, page: Page) -> None:
        with serving(ThresholdPredictor()) as server:
            page.goto(server.url)
            expect(page.locator("#model")).to_contain_text("threshold")
        page.get_by_role("button", name="scene").click()
        expect(page.get_by_role("alert")).to_contain_text("cannot be reached")

    def test_keyboard_alone_reaches_segments_and_zooms(self, page: Page, server: Running) -> None:
        open_sample(page, server)
        fitted = drawn(page)
        page.locator("#stage").focus()
        page.keyboard.press("+")
        page.keyboard.press("ArrowRight")
        assert (drawn(page) != fitted).any()
        page.keyboard.press("0")
        page.locator("#segments button").first.focus()
        expect(page.locator("#segments button").first).to_have_attribute("aria-label", re.compile(r"score .* pixels"))
        page.wait_for_timeout(200)
        assert (drawn(page) != fitted).any()

    def test_a_broken_picture_does_not_stop_the_queue(self, page: Page, server: Running, tmp_path: Path) -> None:
        (tmp_path / "broken.png").write_bytes(b"no picture at all")
        page.goto(server.url)
        page.locator("#file").set_input_files([EXAMPLES / "nuclei.jpg", tmp_path / "broken.png", EXAMPLES / "scene.png"])
        expect(page.locator("#queue button")).to_have_count(3)
        expect(page.locator("#status")).to_have_text("2 of 3 pictures done")
        page.locator("#queue button", has_text="broken").click()
        expect(page.locator("#error")).to_contain_text("not a picture")

    def test_other_tasks_and_downloads(self, page: Page, server: Running) -> None:
        open_sample(page, server)
        page.get_by_label("semantic").check()
        expect(page.locator("#curl")).to_contain_text("task=semantic")
        page.locator("#format").select_option("csv")
        with page.expect_download() as download:
            page.get_by_role("button", name="Download").click()
        assert download.value.suggested_filename == "scene-semantic.csv"
        assert Path(download.value.path()).read_text().startswith("id,label,")

    def test_a_picture_that_the_browser_cannot_show(self, page: Page, server: Running, tmp_path: Path) -> None:
        Image.open(EXAMPLES / "scene.png").convert("RGB").save(tmp_path / "scene.tif")
        page.goto(server.url)
        page.locator("#file").set_input_files(tmp_path / "scene.tif")
        expect(page.locator("#segments button").first).to_be_visible()
        page.wait_for_timeout(500)
        assert drawn(page).std() > 10

    def test_a_large_picture_does_not_freeze_it(self, page: Page, server: Running, tmp_path: Path) -> None:
        rows, columns = np.mgrid[:5000, :8000]
        picture = (((rows // 250 + columns // 250) % 2) * 250).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / "large.jpg", quality=60)
        page.goto(server.url)
        page.evaluate("window.longest = 0; let last = performance.now(); setInterval(() => { const now = performance.now();"
                      " window.longest = Math.max(window.longest, now - last); last = now }, 20)")  # fmt: skip
        page.locator("#file").set_input_files(tmp_path / "large.jpg")
        expect(page.locator("#status")).to_contain_text("segments", timeout=60_000)
        expect(page.locator("#segments button").first).to_be_visible()
        page.get_by_label("Opacity").fill("0.8")
        page.wait_for_timeout(1000)
        assert drawn(page).std() > 10
        assert page.evaluate("window.longest") < 3000  # a hang, not a speed

    def test_phone_and_dark_mode_do_not_scroll_horizontally(self, page: Page, server: Running) -> None:
        page.emulate_media(color_scheme="dark")
        page.set_viewport_size({"width": 360, "height": 740})
        open_sample(page, server)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 29)"

    def test_one_of_several_models_is_chosen_with_the_keyboard(self, page: Page) -> None:
        with serving(in_process(Models()), models="small=a, classes=b") as server:
            open_sample(page, server)
            chooser = page.get_by_role("combobox", name="Model")
            expect(chooser).to_have_value("small")
            expect(page.get_by_label("panoptic")).to_be_enabled()
            chooser.focus()
            page.keyboard.press("ArrowDown")
            expect(chooser).to_have_value("classes")
            # It has one task, so that this is what it is asked for.
            expect(page.get_by_label("panoptic")).to_be_disabled()
            expect(page.get_by_label("semantic")).to_be_checked()
            expect(page.locator("#model")).to_contain_text("classes: 2 labels")
            expect(page.locator("#curl")).to_contain_text("model=classes")
            expect(page.locator("#python")).to_contain_text('model="classes"')
            assert metric(server.url, 'proscale_model_pictures_total{model="classes"}') == 1
            page.keyboard.press("ArrowUp")
            expect(page.locator("#curl")).to_contain_text("model=small")
            assert metric(server.url, 'proscale_model_pictures_total{model="small"}') == 2  # panoptic before, semantic now
            page.locator("#format").select_option("csv")
            with page.expect_download():
                page.get_by_role("button", name="Download").click()
            assert metric(server.url, 'proscale_model_pictures_total{model="small"}') == 3

    def test_with_one_model_there_is_nothing_to_choose(self, page: Page, server: Running) -> None:
        open_sample(page, server)
        expect(page.locator("#model-choice")).to_be_hidden()
        assert "model=" not in page.locator("#curl").inner_text()

    def test_a_format_that_the_task_cannot_have_is_refused_in_words(self, page: Page, server: Running) -> None:
        open_sample(page, server)
        page.get_by_label("instance").check()
        expect(page.locator("#curl")).to_contain_text("task=instance")
        page.locator("#format").select_option("coco_panoptic")
        page.get_by_role("button", name="Download").click()
        expect(page.get_by_role("alert")).to_contain_text("coco_panoptic is for task=panoptic or semantic, not for instance")
        expect(page.locator("#segments button").first).to_be_visible()

    def test_the_wheel_zooms_where_the_pointer_is_and_fingers_do_too(self, page: Page, server: Running) -> None:
        open_sample(page, server)
        page.locator("#stage").scroll_into_view_if_needed()
        box = page.locator("#canvas").bounding_box()
        assert box is not None
        x, y = box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.4
        page.mouse.move(x, y)
        expect(page.locator("#tip")).to_be_visible()
        under, fitted = page.locator("#tip").inner_text(), drawn(page)
        page.mouse.wheel(0, -300)
        page.mouse.move(x + 1, y)
        zoomed = drawn(page)
        assert (zoomed != fitted).any()
        assert page.locator("#tip").inner_text() == under
        page.get_by_role("button", name="Fit").click()
        session = page.context.new_cdp_session(page)
        for kind, apart in (("touchStart", 20), ("touchMove", 60), ("touchMove", 100)):
            touches = [{"x": x - apart, "y": y, "id": 1}, {"x": x + apart, "y": y, "id": 2}]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})
        session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        assert page.evaluate("getComputedStyle(document.getElementById('stage')).touchAction") == "none"

    def test_with_api_keys_it_asks_for_one(self, page: Page, tmp_path: Path) -> None:
        keys, key = tmp_path / "keys.yaml", new_key()
        keys.write_text(f"keys: [{{name: somebody, hash: '{hash_of(key)}'}}]")
        with serving(ThresholdPredictor(), keys_file=keys) as server:
            page.goto(server.url)
            page.get_by_role("button", name="scene").click()
            expect(page.locator("#error")).to_contain_text("API key")
            page.get_by_label("This server asks for an API key").fill(key)
            page.get_by_role("button", name="Use it").click()
            expect(page.locator("#segments button").first).to_be_visible()
            expect(page.locator("#error")).to_be_hidden()
