# SPDX-License-Identifier: Apache-2.0
"""formpost: forms become objects, and nothing of the browser's request reaches them."""

from __future__ import annotations

import pytest
from filter_facts import Facts
from filter_pipeline import Bench
from hypothesis import given, settings
from hypothesis import strategies as st

from swift.core.signing import form_message, mac
from swift.middleware.formpost import parameters
from swift.wire import environ as env
from swift.wire.request import Response

PATH = "/v1/AUTH_a/c/p_"
BOUNDARY = "xYzZY"


def fields(path=PATH, key="akey", digest="sha256", **changed):
    """The fields of a signed form."""
    form = {
        "redirect": "",
        "max_file_size": "1000",
        "max_file_count": "10",
        "expires": "4000000000",
        **changed,
    }
    message = form_message(
        path.encode(),
        **{
            name: form[name].encode()
            for name in ("redirect", "max_file_size", "max_file_count", "expires")
        },
    )
    form.setdefault("signature", mac(digest, key, message).hex())
    return form


def part(name, value, filename=None, **headers):
    extra = f'; filename="{filename}"' if filename is not None else ""
    lines = [f'Content-Disposition: form-data; name="{name}"{extra}']
    lines += [f"{key.replace('_', '-')}: {text}" for key, text in headers.items()]
    body = value if isinstance(value, bytes) else value.encode()
    return (
        f"--{BOUNDARY}\r\n".encode()
        + "\r\n".join(lines).encode()
        + b"\r\n\r\n"
        + body
        + b"\r\n"
    )


def form_body(form, *files):
    parts = [part(name, value) for name, value in form.items()]
    parts += [file if isinstance(file, bytes) else part("f", *file) for file in files]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


class Forms(Bench):
    def __init__(self, **options):
        super().__init__("formpost", **options)
        self.facts = Facts().give_to(self)
        self.facts.set("/AUTH_a", X_Account_Meta_Temp_Url_Key="akey")
        self.facts.set("/AUTH_a/c", X_Container_Meta_Temp_Url_Key="ckey")
        self.end.answers["*"] = lambda environ: Response(201, body=b"")

    def post(self, body, path=PATH, headers=()):
        kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        return self.ask("POST", path, {**kind, **dict(headers)}, body)


def test_each_file_becomes_an_object():
    bench = Forms()
    got = bench.post(form_body(fields(), (b"one", "a.txt"), (b"two" * 9, "b/c")))
    assert got.status == 201
    assert bench.end.lines() == [
        "PUT /v1/AUTH_a/c/p_a.txt",
        "PUT /v1/AUTH_a/c/p_b/c",
    ]
    assert bench.end.bodies == [b"one", b"two" * 9]
    assert bench.end.last[env.SOURCE] == "FP"
    assert env.headers_of(bench.end.last)["Transfer-Encoding"] == "chunked"


def test_other_posts_are_not_touched():
    bench = Forms()
    bench.ask("POST", PATH, {"Content-Type": "text/plain"}, b"x")
    bench.ask("PUT", PATH, {"Content-Type": "multipart/form-data; boundary=x"}, b"x")
    assert [line.split()[0] for line in bench.end.lines()] == ["POST", "PUT"]
    assert bench.facts.asked == []


@pytest.mark.parametrize("path", ["/v1/AUTH_a/c", "/v1/AUTH_a/c/"])
def test_a_form_for_a_whole_container(path):
    bench = Forms()
    assert bench.post(form_body(fields(path=path), (b"x", "n")), path).status == 201
    assert bench.end.lines() == ["PUT /v1/AUTH_a/c/n"]


def test_types_and_expiry_come_from_fields_or_parts():
    bench = Forms()
    file = part("f", b"x", "n", Content_Type="image/png", Content_Encoding="br")
    bench.post(form_body({**fields(), "x_delete_after": "60"}, file))
    sent = env.headers_of(bench.end.last)
    assert (sent["Content-Type"], sent["Content-Encoding"]) == ("image/png", "br")
    assert sent["X-Delete-After"] == "60"
    bench.post(form_body({**fields(), "Content-Type": "text/x"}, file))
    assert env.headers_of(bench.end.last)["Content-Type"] == "text/x"


def test_a_redirect_carries_the_outcome():
    got = Forms().post(form_body(fields(redirect="https://x/y?a=1"), (b"x", "n")))
    assert got.status == 303
    assert got.headers["Location"] == "https://x/y?a=1&status=201&message="


def test_the_first_failure_ends_the_form():
    bench = Forms()
    bench.end.answers["*"] = Response(507)
    got = bench.post(form_body(fields(redirect="u"), (b"x", "1"), (b"x", "2")))
    assert got.headers["Location"].endswith(
        "u?status=507&message=Insufficient%20Storage"
    )
    assert len(bench.end.seen) == 1


def test_cors_headers_of_the_upload_are_kept():
    bench = Forms()
    headers = {"Access-Control-Allow-Origin": "*", "X-Other": "1"}
    bench.end.answers["*"] = Response(201, headers, b"")
    got = bench.post(form_body(fields(), (b"x", "n")))
    assert got.headers["Access-Control-Allow-Origin"] == "*"
    assert "X-Other" not in got.headers


@pytest.mark.parametrize(
    ("form", "status"),
    [
        pytest.param(fields(key="other"), 401, id="another key"),
        pytest.param(fields(path="/v1/AUTH_a/c/"), 401, id="another path"),
        pytest.param(fields(expires="1"), 401, id="expired"),
        pytest.param(fields(signature="00"), 401, id="no signature"),
        pytest.param({**fields(), "max_file_count": "11"}, 401, id="count changed"),
        pytest.param(
            {**fields(), "redirect": "http://evil"}, 401, id="redirect changed"
        ),
        pytest.param(fields(max_file_count="x"), 400, id="count no number"),
        pytest.param(fields(max_file_size="-1"), 400, id="size no number"),
        pytest.param(fields(expires="soon"), 400, id="expiry no number"),
        pytest.param(fields(max_file_count="0"), 400, id="no file allowed"),
        pytest.param(fields(max_file_size="2"), 400, id="file too large"),
        pytest.param(fields(redirect="a\r\nX: y"), 400, id="redirect with a line end"),
        pytest.param({**fields(), "big": "x" * 4097}, 400, id="field too long"),
        pytest.param(
            {**fields(), "big": "x" * 4096}, 201, id="field just not too long"
        ),
        pytest.param({**{f"f{i}": "" for i in range(99)}, **fields()}, 400, id="many"),
        pytest.param(fields(key="ckey", digest="sha1"), 201, id="container key"),
    ],
)
def test_what_a_form_may_say(form, status):
    got = Forms().post(form_body(form, (b"xyz", "n")))
    assert got.status == status
    assert b"FormPost: " in got.body
    assert "Location" not in got.headers


def test_a_form_without_file_is_refused():
    got = Forms().post(form_body(fields(), part("f", b"", "")))
    assert (got.status, got.body) == (400, b"FormPost: no files to process")


def test_fields_behind_a_file_change_nothing():
    bench = Forms()
    form = fields(max_file_count="1")
    body = form_body(form, (b"x", "1"), part("max_file_count", "9"), (b"x", "2"))
    assert bench.post(body).status == 400
    assert len(bench.end.seen) == 1


def test_no_header_of_the_browser_reaches_the_upload():
    bench = Forms()
    names = ("X-Object-Manifest", "X-Symlink-Target", "X-Copy-From", "X-Auth-Token",
             "X-Symlink-Target-Account", "X-Copy-From-Account", "Range")  # fmt: skip
    fields_too = {name.lower(): "c/secret" for name in names}
    bench.post(
        form_body({**fields_too, **fields()}, (b"x", "n")),
        headers=dict.fromkeys(names, "c/secret"),
    )
    assert "c/secret" not in env.headers_of(bench.end.last).values()
    assert bench.end.last[env.QUERY_STRING] == ""
    assert not bench.end.last[env.OWNER]


@pytest.mark.parametrize("cut", range(1, 900, 37))
def test_a_form_that_breaks_off_stores_no_whole_file(cut):
    bench = Forms()
    whole = form_body(fields(), (b"0123456789" * 20, "n"))
    got = bench.post(whole[: len(whole) - 5][:cut])
    assert got.status in (400, 401, 499)
    assert bench.end.bodies == []


@pytest.mark.parametrize("body", [b"", b"--other\r\n\r\n\r\n--other--\r\n", b"\r\n"])
def test_a_form_without_its_boundary_is_a_bad_one(body):
    got = Forms().post(body)
    assert (got.status, got.body) == (400, b"FormPost: no closing boundary")


def test_a_body_that_breaks_off_inside_a_file_is_told_to_the_app():
    bench = Forms()
    whole = form_body(fields(), (b"0123456789" * 20, "n"))
    cut = whole.index(b"0123456789") + 50
    assert bench.post(whole[:cut]).status == 499
    assert bench.end.bodies == []


def test_parameters_of_browsers_old_and_new():
    value = 'form-data; name="a;b"; filename="C:\\dir\\x \\"y\\".txt"'
    word, found = parameters(value)
    assert word == "form-data"
    assert found == {"name": "a;b", "filename": 'C:\\dir\\x "y".txt'}
    assert parameters("x; Boundary=abc ")[1] == {"boundary": "abc"}


@given(st.text(alphabet=';="\\ abc\n', max_size=4000))
@settings(max_examples=100)
def test_reading_parameters_takes_no_long_time(value):
    parameters(value)


@given(st.binary(max_size=300), st.integers(0, 900))
@settings(max_examples=100)
def test_any_damage_gets_an_answer(noise, at):
    whole = form_body(fields(), (b"data", "n"))
    got = Forms().post(whole[:at] + noise + whole[at:])
    assert got.status in (201, 400, 401, 499)


def test_nothing_of_key_or_signature_is_logged():
    bench = Forms()
    bench.post(form_body(fields(), (b"x", "n")))
    bench.post(form_body(fields(key="no"), (b"x", "n")))
    assert bench.log_lines == []
    assert bench.process.info.features["formpost"]["deprecated_digests"] == ["sha1"]
