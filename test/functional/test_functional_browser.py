# SPDX-License-Identifier: Apache-2.0
"""A page in a real browser uploads by a form and reads across origins.

The page comes from a server of the test's own, so that the store is another origin and
the browser holds it to what the answers allow: contract middleware.md 14, api.md 7.3.
The page tells what it saw by a POST to its own server.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import queue
import shutil
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

KEY = "a key of the account"
LIMIT_S = 90
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-extensions", "--no-first-run", "--no-default-browser-check",
    "--no-proxy-server",
)  # fmt: skip

PAGE = """<!doctype html><meta charset="utf-8"><title>test</title>
<form id="form" method="POST" enctype="multipart/form-data" target="frame">
<input name="file" type="file" id="file">
</form>
<iframe name="frame" id="frame"></iframe>
<script>
const facts = %s;
const saw = {};

function withFields(form, fields) {
  for (const [name, value] of Object.entries(fields)) {
    const input = document.createElement("input");
    input.type = "hidden";
    input.name = name;
    input.value = value;
    form.prepend(input);
  }
}

async function submitted() {
  // A form as a user sends it; the answer leads back to a page of this origin.
  const form = document.getElementById("form");
  withFields(form, facts.form.fields);
  const chosen = new DataTransfer();
  chosen.items.add(new File(["from a form"], "form.txt", {type: "text/plain"}));
  document.getElementById("file").files = chosen.files;
  form.action = facts.form.url;
  const frame = document.getElementById("frame");
  const loaded = new Promise(done => frame.addEventListener("load", done));
  form.submit();
  await loaded;
  return frame.contentWindow.location.href;
}

async function sent() {
  // A form that a script sends, without a page to go on to.
  const data = new FormData();
  for (const [name, value] of Object.entries(facts.script.fields))
    data.append(name, value);
  data.append("file", new Blob(["from a script"], {type: "text/plain"}), "script.txt");
  const got = await fetch(facts.script.url, {method: "POST", body: data});
  return [got.status, await got.text()];
}

async function read(url, options) {
  const got = await fetch(url, options);
  return {
    status: got.status,
    text: await got.text(),
    colour: got.headers.get("x-object-meta-colour"),
    etag: got.headers.get("etag"),
    length: got.headers.get("content-length"),
    hidden: got.headers.get("x-storage-policy"),
  };
}

async function step(name, work) {
  try {
    saw[name] = await work();
  } catch (error) {
    saw[name] = "refused: " + error.name;
  }
}

(async () => {
  const token = {headers: {"X-Auth-Token": facts.token}};
  await step("submitted", submitted);
  await step("sent", sent);
  await step("plain", () => read(facts.shown));
  await step("preflighted", () => read(facts.shown, token));
  await step("written", () => read(facts.written,
    {method: "PUT", body: "by a script", ...token}));
  await step("signed", () => read(facts.signed));
  await step("closed", () => read(facts.closed, token));
  await fetch("/saw", {method: "POST", body: JSON.stringify(saw)});
})();
</script>
"""


@pytest.fixture(scope="module")
def browser():
    """The path of a browser."""
    for name in BROWSERS:
        found = shutil.which(name)
        if found:
            return found
    pytest.skip("chromium is not installed (apt-get install chromium)")


class Site(ThreadingHTTPServer):
    """Serves the page, and keeps what the page saw."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Visit)
        self.page = b""
        self.saw = queue.Queue()
        self.origin = f"http://127.0.0.1:{self.server_port}"


class Visit(BaseHTTPRequestHandler):
    """One request of the browser to the page's own server."""

    server: Site

    def do_GET(self):
        body = {"/": self.server.page}.get(self.path, b"<!doctype html>done")
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
        self.server.saw.put(json.loads(body))

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture(scope="module")
def site():
    made = Site()
    thread = threading.Thread(target=made.serve_forever, args=(0.05,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture(scope="module")
def places(client, site):
    """(container that is open to the page's origin, one that is open to another)."""
    client.post(client.base, {"X-Account-Meta-Temp-Url-Key": KEY})
    stem = f"{client.base}/browser-{time.time_ns()}"
    opened, closed = f"{stem}-open", f"{stem}-closed"
    allow = "X-Container-Meta-Access-Control-Allow-Origin"
    read = {"X-Container-Read": ".r:*"}
    assert client.put(opened, None, {allow: site.origin, **read}).status == 201
    closed_to_us = {allow: "http://other.example", **read}
    assert client.put(closed, None, closed_to_us).status == 201
    for container in (opened, closed):
        headers = {"X-Object-Meta-Colour": "red"}
        assert client.put(f"{container}/o", b"shown", headers).status == 201
    yield opened, closed
    client.remove_container(opened)
    client.remove_container(closed)


def signed(*lines):
    text = "\n".join(str(line) for line in lines)
    return hmac.new(KEY.encode(), text.encode(), "sha256").hexdigest()


def form(path, redirect):
    """The fields of a form that may upload one file below a path."""
    expires = int(time.time()) + 600
    return {
        "redirect": redirect,
        "max_file_size": 1000,
        "max_file_count": 1,
        "expires": expires,
        "signature": signed(path, redirect, 1000, 1, expires),
    }


@pytest.fixture(scope="module")
def saw(browser, site, places, client, tmp_path_factory):
    """What the page saw, step by step."""
    opened, closed = places
    store = f"http://{client.host}:{client.port}"
    path = f"{opened}/up/"
    expires = int(time.time()) + 600
    signature = signed("GET", expires, f"{opened}/o")
    facts = {
        "token": client.token,
        "form": {"url": store + path, "fields": form(path, f"{site.origin}/done")},
        "script": {"url": store + path, "fields": form(path, "")},
        "shown": f"{store}{opened}/o",
        "written": f"{store}{opened}/written",
        "closed": f"{store}{closed}/o",
        "signed": f"{store}{opened}/o?temp_url_sig={signature}"
        f"&temp_url_expires={expires}",
    }
    site.page = (PAGE % json.dumps(facts)).encode()
    folder = tmp_path_factory.mktemp("browser")
    out = (folder / "out").open("wb")
    process = subprocess.Popen(
        [
            browser,
            *SWITCHES,
            f"--user-data-dir={folder / 'profile'}",
            "--remote-debugging-port=0",
            f"{site.origin}/",
        ],
        stdout=out,
        stderr=out,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(folder)},
    )
    out.close()
    try:
        return site.saw.get(timeout=LIMIT_S)
    except queue.Empty:
        text = (folder / "out").read_text(errors="replace")
        pytest.fail(f"the page said nothing within {LIMIT_S} s\n{text[-3000:]}")
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(60)


def test_a_form_of_a_page_uploads_and_goes_on_to_its_page(saw, site, client, places):
    assert saw["submitted"] == f"{site.origin}/done?status=201&message="
    got = client.get(f"{places[0]}/up/form.txt")
    assert got.body == b"from a form"
    assert got.headers["content-type"] == "text/plain"


def test_a_script_uploads_by_a_form_and_reads_the_answer(saw, client, places):
    assert saw["sent"][0] == 201
    assert client.get(f"{places[0]}/up/script.txt").body == b"from a script"


@pytest.mark.parametrize("step", ["plain", "preflighted", "signed"])
def test_a_page_of_an_allowed_origin_reads(saw, step):
    found = saw[step]
    assert (found["status"], found["text"]) == (200, "shown")
    assert found["etag"].strip('"') == hashlib.md5(b"shown").hexdigest()


def test_a_page_sees_the_headers_that_are_exposed(saw):
    assert saw["preflighted"]["colour"] == "red"
    assert saw["preflighted"]["hidden"] is None


def test_a_page_of_an_allowed_origin_writes(saw, client, places):
    assert saw["written"]["status"] == 201
    assert client.get(f"{places[0]}/written").body == b"by a script"


def test_a_page_of_another_origin_is_refused_by_the_browser(saw):
    assert saw["closed"] == "refused: TypeError"
