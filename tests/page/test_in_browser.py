"""The page in a real browser, and its addresses over HTTP."""

import asyncio
import base64
import io
import json
import re
import shlex
import socket
import subprocess
import threading
import time
import urllib.request
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from shutil import which

import mutate_inputs
import pytest
import requests_to_page
from PIL import Image

pytest.importorskip("gradio", reason="the page needs the extra 'page'")
CHROMIUM = which("chromium") or which("chromium-headless-shell")


@contextmanager
def served(app, connection):
    """The port of an app that a thread of this process serves."""
    import uvicorn

    config = uvicorn.Config(app, port=0, http=connection, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.05)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def address(site):
    """The page's address."""
    from gatedcir.page.connection import Connection
    from gatedcir.page.server import make_app

    with served(make_app(site), Connection) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def client(site):
    from fastapi.testclient import TestClient

    from gatedcir.page.server import make_app

    with TestClient(make_app(site), raise_server_exceptions=False) as client:
        yield client


def test_changed_requests_have_no_faults(site, client, monkeypatch):
    picture = site.examples(1)[0][0]
    monkeypatch.setattr(requests_to_page, "page", lambda: (client.app, picture))
    [(_, found)] = mutate_inputs.run_all(55, 0, ["requests"])
    assert found.faults == [] and found.read and found.refused


@pytest.mark.parametrize("address", [b"/query.json?text=\xcd", b"/?text=\x07", b"/pic%07ture"])
def test_bytes_that_no_address_has_are_refused(client, address):
    content = b"GET %s HTTP/1.1\nHost: localhost\n\n" % address
    status, answer = asyncio.run(requests_to_page.answer(client.app, content))
    assert status == 400 and b"that no address has" in answer


@pytest.fixture  # for each test: while it is open, an event loop runs
def browser():
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here; install Debian's chromium")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


def test_the_page_in_chromium(browser, address, photos, tmp_path):
    page = browser.new_page(viewport={"width": 900, "height": 600})
    page.set_default_timeout(30_000)
    outside, errors = [], []
    page.on("request", lambda one: outside.append(one.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    text = page.get_by_label("How to change it")
    text.wait_for()
    page.wait_for_selector(".gc-examples img")
    _says_what_is_wrong(page, tmp_path / "a.png")

    page.locator("input[type=file]").set_input_files(photos / "p3.png")
    page.wait_for_selector(".gc-drop img")
    page.wait_for_selector(".gc-card")
    text.fill("make it red")
    text.press("Enter")
    page.wait_for_selector(".gc-map")
    page.wait_for_url("**text=make+it+red**")
    assert page.locator(".gc-card").count() == 12
    page.wait_for_function(
        "[...document.querySelectorAll('.gc-card img')].slice(0, 4).every(i => i.naturalWidth)"
    )
    assert "text=make+it+red" in page.url and "ref=" in page.url
    _has_no_barriers(page)

    page.locator(".gc-open").nth(2).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".gc-trail li:nth-child(2)")
    assert text.input_value() == ""
    page.locator(".gc-trail button").first.click()
    page.wait_for_selector(".gc-trail", state="detached")
    assert text.input_value() == "make it red"

    page.get_by_label("parity").click()
    page.get_by_role("option", name="odd").click()
    page.wait_for_function("document.querySelectorAll('.gc-card').length == 5")
    page.wait_for_url("**parity**")  # written a moment after the cards
    page.reload()  # the address is the query
    page.wait_for_selector(".gc-card")
    assert page.locator(".gc-card").count() == 5 and text.input_value() == "make it red"
    _is_reached_by_tab(page)
    page.goto(f"{page.url}&__theme=dark")
    page.wait_for_selector(".dark .gc-map")
    _has_no_barriers(page)
    _reaches_the_end(page, f"{address}/?text=a+red+square&k=4")
    page.goto(f"{address}/?k=x")
    page.get_by_text("which is no number").wait_for()
    page.close()
    assert not errors
    assert {url for url in outside if not url.startswith((address, "data:", "blob:"))} == set()


def _says_what_is_wrong(page, large):
    """Of a query for nothing, a file that is no picture, and a `large` file, which it makes."""
    page.get_by_label("How to change it").press("Enter")
    page.get_by_text("Give a picture, a text, or both").wait_for()
    choose = page.locator("input[type=file]")
    choose.set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"no image"})
    page.get_by_text("is no picture that can be read").wait_for()
    with large.open("wb") as file:
        file.truncate(30_000_000)
    choose.set_input_files(large)
    page.get_by_text("has 30.0 MB; give a picture of at most 10 MB").wait_for()


def _reaches_the_end(page, link):
    """Page by page: by scrolling, and by the keyboard, which goes on at the first new picture."""
    page.set_viewport_size({"width": 390, "height": 400})
    page.goto(link)
    page.wait_for_selector(".gc-more")
    assert page.locator(".gc-card").count() == 4
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_selector(".gc-card:nth-child(8)")
    page.evaluate("scrollTo(0, 0)")  # what is pressed below must not scroll
    page.evaluate("document.querySelector('.gc-card:nth-child(5) .gc-mark').click()")
    page.wait_for_selector("[aria-pressed=true]")
    assert page.locator(".gc-card").count() == 8  # as many as before the mark
    page.evaluate("document.querySelector('.gc-more').focus({ preventScroll: true })")
    page.keyboard.press("Enter")
    page.wait_for_selector(".gc-card:nth-child(12)")
    assert page.evaluate(
        "document.activeElement.closest('li') === document.querySelector('.gc-card:nth-child(9)')"
    )
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.get_by_text("These are all results.").wait_for()
    ranks = page.locator(".gc-under b").all_inner_texts()
    assert ranks == [str(rank) for rank in range(1, 13)]


def test_two_models_stand_next_to_each_other_on_a_phone(browser, site):
    from gatedcir.page import parts
    from gatedcir.page.asked import Asked, Visit
    from gatedcir.page.layout import CSS

    [(picture, _), *_] = site.examples(1)
    asked = Asked(picture, (("make it red", 1.0),), k=4)
    [(name, found)], [(_, look)] = site.find(asked), site.look(asked)
    page = browser.new_page(viewport={"width": 390, "height": 800})
    both = [(name, found), ("a-long-name-of-a-second-model", found)]
    maps = parts.looks([(name, look), ("second", look)])
    page.set_content(f"<style>{CSS}</style>{maps}{parts.results(Visit(asked), both)}")
    for width in (390, 700):  # as wide as on a phone, and as narrow as next to the inputs
        page.set_viewport_size({"width": width, "height": 800})
        page.evaluate("body => (document.body.style.width = body)", f"{min(width, 330) - 16}px")
        boxes = [one.bounding_box() for one in page.locator(".gc-map, .gc-card").all()]
        middle = 8 + (min(width, 330) - 16) / 2
        assert all(box["x"] + box["width"] <= middle or box["x"] >= middle for box in boxes)
        for kind in (".gc-look", "section[aria-label]"):
            first, second = (one.bounding_box() for one in page.locator(kind).all())
            assert first["y"] == second["y"] and first["x"] + first["width"] <= second["x"]
    page.close()


def _has_no_barriers(page):
    """Labels, alternative texts, contrast and the like, by the rules of axe."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page, options={"runOnly": ["wcag2a", "wcag2aa"]}).response["violations"]
    wrong = {
        rule["id"]: [node["html"][:150] for node in rule["nodes"]]
        for rule in found
        if rule["impact"] in ("serious", "critical")
    }
    assert wrong == {}


def _is_reached_by_tab(page):
    """The keyboard alone comes to all that a mouse can press, and each place shows that it does."""
    page.locator("input[type=file]").focus()
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        seen |= set(page.evaluate(_FOCUSED))
    kinds = {"clear", "reference", "next", "more", "less", "Search", "How to change it", "parity"}
    assert kinds <= seen and "no outline" not in seen


_FOCUSED = """() => {
  const one = document.activeElement;
  const own = one.closest("[data-act], [data-word]");
  const hidden = own && getComputedStyle(one).outlineStyle === "none";
  return [one.dataset.act, one.ariaLabel, one.textContent.trim(),
    one.labels?.[0]?.textContent.trim(), hidden ? "no outline" : ""].map(String);
}"""


def test_no_file_but_the_gallerys_pictures_is_served(client, photos):
    [picture] = {client.get("/query.json?text=a&k=1").json()["results"].popitem()[1][0]["picture"]}
    assert client.get(f"/picture/{picture}").headers["content-type"] == "image/jpeg"
    secret = photos.parent / "secret.txt"
    secret.write_text("the secret")
    for path in (
        "/picture/../secret.txt",
        "/picture/..%2F..%2Fsecret.txt",
        f"/picture/{secret}",
        f"/picture/{str(secret).replace('/', '%2F')}",
        "/picture/0123456789abcdef",
        f"/gradio_api/file={secret}",
        f"/gradio_api/file={photos / 'p1.png'}",
        "/gradio_api/file=../../etc/passwd",
        "/gradio_api//file=/etc/passwd",
        "/gradio_api/proxy=https://example.org/",
        f"/file={secret}",
        f"/static/{'../' * 12}etc/passwd",
        f"/assets/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2f..{secret}",
    ):
        answer = client.get(path)
        assert answer.status_code in (400, 403, 404, 405), path
        assert "the secret" not in answer.text and "root:" not in answer.text, path
    assert client.post("/gradio_api/upload", files={"files": b"x"}).status_code == 404


def test_limits_are_one_sentence_without_a_trace(client):
    for path, status, words in (
        ("/query.json", 400, "give a picture, a text, or both"),
        ("/query.json?text=a&k=0", 400, "k is 0; ask for 1 to 240"),
        ("/query.json?text=a&where=%7B%22x%22:%5B1%5D%7D", 400, "no image has the field 'x'"),
        ("/query.json?text=" + "a+" * 150, 400, "shorten it to 100"),
        ("/sheet.png?ref=0123456789abcdef", 400, "not here any more"),
        ("/picture/0123456789abcdef?side=7", 400, "a side is one of"),
    ):
        answer = client.get(path)
        assert (answer.status_code, answer.json().keys()) == (status, {"error"}), path
        assert words in answer.json()["error"] and "Traceback" not in answer.text
    many = client.post("/upload", content=(bytes(1_000_000) for _ in range(30)))
    assert many.status_code == 413 and "at most 10 MB" in many.json()["error"]
    told = client.post("/upload", content=bytes(25_000_000))
    assert told.status_code == 413 and "25.0 MB" in told.json()["error"]
    wrong = client.post("/upload", content=b"<html>", headers={"Content-Type": "text/html"})
    assert wrong.status_code == 400 and "is no picture" in wrong.json()["error"]
    answer = client.post("/gradio_api/run/search", json={"data": ["ref=../x", ""]})
    assert "is no id of a picture" in answer.text and "Traceback" not in answer.text
    assert client.get("/query.json?text=a", headers={"Host": "evil.example"}).status_code == 400


def test_the_interface_gives_what_the_page_shows(client, site, photos):
    content = (photos / "p3.png").read_bytes()
    data = ["text=make+it+red&k=3", base64.b64encode(content).decode()]
    [found] = client.post("/gradio_api/run/search", json={"data": data}).json()["data"]
    picture = client.post("/upload", content=content).json()["picture"]
    asked = f"ref={picture}&text=make+it+red&k=3"
    assert client.get(f"/query.json?{asked}").json()["results"] == found["results"]
    sheet = client.get(f"/sheet.png?{asked}")
    assert Image.open(io.BytesIO(sheet.content)).format == "PNG"
    wrong = client.post("/gradio_api/run/search", json={"data": ["text=a", "é"]})
    assert "is no base64" in wrong.text


def test_the_examples_of_the_docs_are_answered(address, photos, tmp_path, monkeypatch):
    if which("curl") is None:
        pytest.skip("there is no curl here")
    text = Path("docs/page.md").read_text(encoding="utf-8")
    text = text.replace("http://127.0.0.1:7860", address)
    with Image.open(photos / "p3.png") as picture:
        picture.save(tmp_path / "dog.jpg")
    monkeypatch.chdir(tmp_path)
    curls = re.findall("^curl .*", text, re.MULTILINE)
    query, _, picture, search = [
        subprocess.run([*shlex.split(line), "-sf"], check=True, capture_output=True).stdout
        for line in curls
    ]
    assert len(json.loads(query)["results"].popitem()[1]) == 5
    assert Image.open("sheet.png").format == "PNG"
    assert json.loads(search)["data"][0]["link"] == "?text=a+red+dress&k=5"
    [program] = re.findall("```python\n(.*?)```", text, re.DOTALL)
    values: dict = {}
    exec(program, values)
    assert values["found"]["query"]["reference"] == json.loads(picture)["picture"]


def test_clients_that_never_finish_hold_nobody_up(address):
    """Some send half of their request, and some do not read the answer."""
    place = address.removeprefix("http://")
    host, port = place.split(":")
    upload = f"POST /upload HTTP/1.1\r\nHost: {place}\r\nContent-Length: 9000000\r\n\r\nabc"
    sheet = f"GET /sheet.png?text=a&k=12 HTTP/1.1\r\nHost: {place}\r\n\r\n"
    with ExitStack() as stack:
        for sent in ("GET /query.json?text=a HT", upload, sheet):
            for _ in range(8):  # of which the model takes 2 at once
                slow = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
                slow.sendall(sent.encode())
        with urllib.request.urlopen(f"{address}/query.json?text=a&k=1", timeout=60) as answer:
            assert answer.status == 200 and json.load(answer)["results"]


def test_many_visitors_at_once_are_all_answered_with_two_in_the_model(address, site, monkeypatch):
    host, port = address.removeprefix("http://").split(":")
    retriever, pictures = site.engines[0].retriever, [one for one, _ in site.examples(12)]
    features = retriever.encode_queries(retriever.queries(None, "a")[0])
    inside, most, lock = 0, 0, threading.Lock()

    def encode(queries):  # what takes a model's memory, and quicker
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.005)
        with lock:
            inside -= 1
        return features

    async def visit(number):
        paths = "/query.json?text=a&k=1", *(f"/picture/{one}" for one in pictures[:4])
        reader, writer = await asyncio.open_connection(host, int(port))
        sent = f"GET {paths[number % 5]} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        writer.write(sent.encode())
        answer = await reader.read()
        writer.close()
        return answer.split()[1]

    async def visits():
        return await asyncio.gather(*map(visit, range(200)))

    monkeypatch.setattr(retriever, "encode_queries", encode)
    assert asyncio.run(visits()) == [b"200"] * 200
    assert 0 < most <= 2


def test_headers_that_are_never_finished_are_given_up():
    from gatedcir.page.connection import Connection

    class Hasty(Connection):
        seconds = 0.2

    async def slow(scope, receive, send):
        await asyncio.sleep(0.5)  # an answer has no such limit
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    begun = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
    with served(slow, Hasty) as port, ExitStack() as stack:
        silent, dripping, good = (
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            for _ in range(3)
        )
        good.sendall(begun + b"\r\n")
        dripping.sendall(begun)
        with suppress(OSError):  # it is closed in between
            for letter in b"X-Long: " + b"a" * 50:
                dripping.send(bytes([letter]))
                time.sleep(0.02)
        for one in (silent, dripping):
            assert is_closed(one)
        assert good.recv(99).startswith(b"HTTP/1.1 204")
        good.sendall(begun)  # a second request of the same connection
        assert is_closed(good)


def is_closed(connection):
    """Whether the other side ends it. It waits for that."""
    try:
        return connection.recv(99) == b""
    except ConnectionResetError:
        return True


def ask(app, *came, path="/upload"):
    """The status and the words of an answer to what comes. After it, the client says nothing."""
    came, sent = iter(came), []

    async def receive():
        return next(came, None) or await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "query_string": b""}
    scope |= {"scheme": "http", "server": ("localhost", 80)}
    scope["headers"] = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    asyncio.run(app(scope, receive, send))
    assert list(came) == []
    return sent and (sent[0]["status"], sent[1]["body"].decode())


def part(body=b"abc"):
    return {"type": "http.request", "body": body, "more_body": True}


def test_a_visitor_who_leaves_in_the_middle_is_no_error(client):
    assert ask(client.app, part(), {"type": "http.disconnect"}) == []


@pytest.mark.parametrize("path", ["/upload", "/gradio_api/run/search"])
def test_a_half_sent_body_is_given_up_after_a_time(client, path):
    from gatedcir.page.server import Guard

    guard = Guard(client.app, seconds=0.05)
    status, words = ask(guard, part(), path=path)
    assert status == 408 and "longer than 0.05 seconds; try again" in words
    assert guard.held == 0
    many = Guard(client.app, together=10)
    status, words = ask(many, *[part(b"12345")] * 3, path=path)
    assert status == 503 and "too many uploads" in words
    assert many.held == 0


def test_the_time_of_a_body_does_not_end_a_long_answer():
    from gatedcir.page.server import Guard

    async def slow(scope, receive, send):
        assert (await receive())["body"] == b"all"
        waiting = asyncio.create_task(receive())  # for the client to leave
        await asyncio.sleep(0.05)
        assert not waiting.done()
        waiting.cancel()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    whole = {"type": "http.request", "body": b"all"}
    assert ask(Guard(slow, seconds=0.01), whole) == (200, "done")


def test_nothing_is_told_to_others(client):
    page = client.get("/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert '"analytics_enabled":false' in page.text.replace(" ", "")
    assert "fonts.googleapis" not in page.text + client.get("/theme.css").text
