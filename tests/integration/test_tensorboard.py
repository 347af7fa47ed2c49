"""A real TensorBoard in a real browser: graph, traces, and the curves of training and evaluation."""

import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from tests.conftest import environment

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (Debian package chromium)"),
]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def tensorboard(train, run_here):
    logdir = train(
        train_steps=20, num_gpus=2, summary_every="5", histogram_every="10", trace_every="10", checkpoint_every="10"
    )
    assert run_here("trainer.evaluate", f"--logdir={logdir}", "--follow").code == 0
    port = free_port()
    command = [
        "-m",
        "tensorboard.main",
        f"--logdir={logdir}",
        f"--port={port}",
        "--host=127.0.0.1",
        "--load_fast=false",
    ]
    process = subprocess.Popen(
        [sys.executable, *command], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}/"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "tensorboard ended"
        try:
            if b"step010" in urllib.request.urlopen(f"{url}data/plugin/graphs/info", timeout=5).read():
                break
        except OSError:
            pass
        time.sleep(0.3)
    else:
        pytest.fail("TensorBoard has not loaded the run in 60 s")
    yield url
    process.terminate()
    process.wait(timeout=20)


@pytest.fixture
def page():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = [
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-background-networking",
            "--disable-sync",
        ]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser.new_page(viewport={"width": 1400, "height": 900})
        browser.close()


def test_the_graphs_tab_shows_the_towers_and_a_trace(tensorboard, page):
    page.goto(f"{tensorboard}#graphs")
    for name in ("tower_0", "tower_1", "input", "average_gradients", "update"):
        # A node's text holds its name twice, as title and as label.
        page.locator("svg text", has_text=re.compile(f"^({name})+$")).first.wait_for(state="attached", timeout=60_000)
    # The drop-down of tags offers the traced steps; their profile colours the nodes by compute time.
    page.locator(".tags-row paper-dropdown-menu").click()
    page.locator(".tags-row paper-item", has_text="step010").click()
    page.locator("paper-radio-button", has_text="Compute time").click()
    legend = page.locator("tf-graph-controls").get_by_text(re.compile(r"[\d.]+ ms"))
    legend.first.wait_for(timeout=30_000)
    page.get_by_text("Devices included in stats").wait_for()


@pytest.mark.slow
def test_the_curves_of_training_and_evaluation_are_drawn_together(tensorboard, page):
    page.goto(f"{tensorboard}#timeseries")
    card = page.locator("scalar-card", has_text="accuracy").first
    card.wait_for(timeout=60_000)
    card.scroll_into_view_if_needed()
    # Hovering shows a row for each curve of the chart.
    for name in ("eval/validation", "."):
        card.locator("scalar-card-data-table, .tooltip, table").get_by_text(name, exact=True).first.wait_for(
            timeout=30_000
        )
