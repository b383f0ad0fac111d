# SPDX-License-Identifier: Apache-2.0
"""Pipelines out of .conf files, and the filters put in place."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from swift.core.errors import ConfigError
from swift.core.settings import option
from swift.runtime.logs import ListSink, Logger
from swift.wire import environ as env
from swift.wire.filter import Filter, PipelineContext, Process, factory
from swift.wire.pipeline import (
    REQUIRED,
    app_section_name,
    load_pipeline,
    positions,
)
from swift.wire.request import Response, WsgiApp, call

MODULE = Path(__file__).stem
ALL = frozenset(required.entry for required in REQUIRED)


@dataclass(frozen=True)
class MarkConfig:
    word: str = option("default", doc="What is added to the X-Marks header.")
    limit: int = option(5, doc="A number.")


class Mark(Filter):
    """Adds its word to a header of the answer."""

    Config = MarkConfig

    def __call__(self, environ: env.Environ, start_response: Any) -> Iterable[bytes]:
        response = call(self.app, environ)
        marks = response.headers.get("X-Marks", "")
        response.headers["X-Marks"] = f"{self.config.word} {marks}".strip()
        return response(environ, start_response)


mark_factory = factory(Mark)


def app_factory(global_conf: Mapping[str, str], **local_conf: str) -> WsgiApp:
    context = PipelineContext.of(global_conf)
    context.info.register("swift", version="1")
    text = f"{context.section} {local_conf.get('own')} {global_conf.get('shared')}"
    return lambda environ, start: Response.text(200, text)(environ, start)


def bad_factory(global_conf: Mapping[str, str], **local_conf: str) -> WsgiApp:
    raise ValueError("these options do not fit")


def composite_factory(
    loader: Any, global_conf: Mapping[str, str], **local_conf: str
) -> WsgiApp:
    apps: dict[str, WsgiApp] = {
        name: loader.get_app(name, global_conf=global_conf) for name in local_conf
    }

    def app(environ: env.Environ, start: Callable[..., Any]) -> Iterable[bytes]:
        return apps[environ[env.PATH_INFO].strip("/")](environ, start)

    return app


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def conf(tmp_path: Path, text: str) -> str:
    path = tmp_path / "server.conf"
    path.write_text(text.replace("MODULE", MODULE))
    return str(path)


PLAIN = """
[DEFAULT]
shared = all
[pipeline:main]
pipeline = one two app
[filter:one]
paste.filter_factory = MODULE:mark_factory
word = first
[filter:two]
paste.filter_factory = MODULE:mark_factory
[app:app]
paste.app_factory = MODULE:app_factory
own = mine
"""


def test_filters_stand_in_the_order_written(tmp_path: Path) -> None:
    pipeline = load_pipeline(conf(tmp_path, PLAIN))

    response = call(pipeline.app, env.blank("/"))

    assert response.headers["X-Marks"] == "first default"
    assert response.body == b"app:app mine all"
    assert pipeline.names == ("one", "two", "app")
    assert pipeline.process.info.features == {"swift": {"version": "1"}}


def test_a_directory_and_set_options_work_alike(tmp_path: Path) -> None:
    folder = tmp_path / "server.conf.d"
    folder.mkdir()
    (folder / "00.conf").write_text("[DEFAULT]\nword = shared\nshared = a 5% b\n")
    (folder / "10.conf").write_text(PLAIN.replace("MODULE", MODULE))
    (folder / "20.conf").write_text("[filter:two]\nset word = own\n")

    response = call(load_pipeline(str(folder)).app, env.blank("/"))

    # [filter:one] has a plain `word`, over which [DEFAULT] wins.
    assert response.headers["X-Marks"] == "shared own"
    assert response.body == b"app:app mine all"


def test_composites_get_their_apps_with_contexts(tmp_path: Path) -> None:
    path = conf(
        tmp_path,
        "[composite:main]\npaste.composite_factory = MODULE:composite_factory\n"
        "app = x\n[app:app]\npaste.app_factory = MODULE:app_factory\nown = 1\n",
    )

    response = call(load_pipeline(path).app, env.blank("/app"))

    assert response.body == b"app:app 1 None"


def test_an_app_alone_is_a_pipeline(tmp_path: Path) -> None:
    path = conf(tmp_path, "[app:main]\npaste.app_factory = MODULE:app_factory\n")

    assert load_pipeline(path).names == ("main",)
    assert app_section_name(path) == "app:main"


def test_the_app_section_is_found_without_importing(tmp_path: Path) -> None:
    path = conf(
        tmp_path,
        "[pipeline:main]\npipeline = x server\n[app:server]\nuse = egg:gone#gone\n",
    )

    assert app_section_name(path) == "app:server"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("[DEFAULT]\n", "main", id="no pipeline"),
        pytest.param(
            "[pipeline:main]\npipeline = gone\n", "gone", id="a section is missing"
        ),
        pytest.param(
            "[app:main]\nuse = egg:swift#gone\n", "gone", id="no such entry point"
        ),
        pytest.param("[app:main]\nuse = egg:gone#x\n", "gone", id="no such package"),
        pytest.param(
            "[app:main]\npaste.app_factory = gone_module:x\n",
            "gone_module",
            id="no such module",
        ),
        pytest.param(
            "[app:main]\npaste.app_factory = MODULE:bad_factory\n",
            r"\[app:main\].*do not fit",
            id="options do not fit",
        ),
        pytest.param(
            PLAIN + "[filter:two]\nlimit = many\n",
            r"server\.conf \[filter:two\] limit: 'many'",
            id="a value does not parse",
        ),
    ],
)
def test_a_broken_conf_is_explained(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_pipeline(conf(tmp_path, text))


def test_log_options_of_a_section_make_a_log_of_its_own() -> None:
    process = Process({"log_address": "/none"})
    plain = PipelineContext({"log_address": "/none"}, process)
    own = PipelineContext(
        {"log_address": "/none"}, process, "filter:x", {"log_level": "DEBUG"}
    )

    assert plain.logger() is process.log
    assert own.logger() is not process.log
    assert own.logger().level == 10


def test_unknown_options_are_logged_and_ignored() -> None:
    sink = ListSink()
    process = Process({}, source="a.conf", log=Logger("x", [sink], level=10))
    context = PipelineContext({}, process, "filter:x")

    config = context.bind(MarkConfig, {"word": "w", "wrod": "y"})

    assert config.word == "w"
    assert sink.lines == [(10, "a.conf [filter:x]: option wrod is unknown")]


def test_features_of_the_admin_are_kept_apart() -> None:
    info = Process({}).info

    info.register("slo", max_segments=1)
    info.register("slo", min_size=2)
    info.register("encryption", admin=True, enabled=True)

    assert info.features == {"slo": {"max_segments": 1, "min_size": 2}}
    assert info.admin_features == {"encryption": {"enabled": True}}


def completed(names: str, installed: frozenset[str] = ALL) -> str:
    present = names.split()
    for entry, index in positions(present, installed):
        present.insert(index, entry)
    return " ".join(present)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(
            "",
            "catch_errors gatekeeper listing_formats copy dlo versioned_writes",
            id="nothing there",
        ),
        pytest.param(
            "catch_errors proxy_logging memcache tempauth proxy_logging",
            "catch_errors gatekeeper proxy_logging memcache listing_formats tempauth "
            "copy dlo versioned_writes proxy_logging",
            id="a usual pipeline",
        ),
        pytest.param(
            "healthcheck catch_errors proxy_logging",
            "gatekeeper healthcheck catch_errors proxy_logging listing_formats copy "
            "dlo versioned_writes",
            id="gatekeeper goes to the front when catch_errors is not there",
        ),
        pytest.param(
            "catch_errors gatekeeper listing_formats copy slo dlo versioned_writes",
            "catch_errors gatekeeper listing_formats copy slo dlo versioned_writes",
            id="complete already",
        ),
        pytest.param(
            "catch_errors gatekeeper tempauth copy slo",
            "catch_errors gatekeeper listing_formats tempauth copy dlo slo "
            "versioned_writes",
            id="large objects",
        ),
    ],
)
def test_required_filters_find_their_places(given: str, expected: str) -> None:
    assert completed(given) == expected


def test_filters_that_are_not_installed_are_not_inserted() -> None:
    installed = ALL - {"dlo", "versioned_writes"}

    assert completed("catch_errors tempauth", installed) == (
        "catch_errors gatekeeper listing_formats tempauth copy"
    )
