# SPDX-License-Identifier: Apache-2.0
"""Devices, tiers, and the search words of operators."""

from __future__ import annotations

import pytest

from swift.core.errors import FormatError
from swift.core.ring.devices import (
    BadDevice,
    Device,
    Search,
    checked_address,
    new_device,
    parse_change,
    parse_new_device,
    parse_search,
)

ENTRY = {
    "id": 3,
    "region": 1,
    "zone": 2,
    "ip": "10.0.0.7",
    "port": 6200,
    "replication_ip": "10.1.0.7",
    "replication_port": 6300,
    "device": "sdb",
    "weight": 100.0,
    "meta": "rack 7",
}
DEVICE = Device.from_dict(ENTRY)


def test_a_device_is_described_as_it_was_read() -> None:
    entry = {**ENTRY, "colour": {"of": "the case"}}
    assert Device.from_dict(entry).as_dict() == entry


def test_old_entries_get_defaults() -> None:
    old = {
        key: value
        for key, value in ENTRY.items()
        if key not in ("region", "meta", "replication_ip", "replication_port")
    }
    device = Device.from_dict(old)
    assert (device.region, device.meta) == (1, "")
    assert (device.replication_ip, device.replication_port) == ("10.0.0.7", 6200)


@pytest.mark.parametrize(
    "change",
    [{"id": "x"}, {"ip": 7}, {"device": None}, {"weight": "heavy"}, {"zone": None}],
    ids=lambda change: next(iter(change)),
)
def test_entries_of_the_wrong_type_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(FormatError):
        Device.from_dict({**ENTRY, **change})


def test_a_device_prints_as_commands_show_it() -> None:
    assert str(DEVICE) == 'd3r1z2-10.0.0.7:6200R10.1.0.7:6300/sdb_"rack 7"'


def test_ports_are_no_part_of_a_tier() -> None:
    assert DEVICE.tiers == (
        (1,),
        (1, 2),
        (1, 2, "10.0.0.7"),
        (1, 2, "10.0.0.7", 3),
    )


@pytest.mark.parametrize(
    "word",
    [
        "d3",
        "r1",
        "z2",
        "r1z2",
        "d3r1z2-10.0.0.7:6200R10.1.0.7:6300/sdb_rack 7",
        "10.0.0.7",
        "-10.0.0.7",
        ":6200",
        "10.0.0.7:6200",
        "R10.1.0.7",
        "R:6300",
        "R10.1.0.7:6300",
        "/sdb",
        "/sdb_",
        "_",
        "_ack",
        "z2/sdb",
    ],
)
def test_search_words_that_match(word: str) -> None:
    assert parse_search(word).matches(DEVICE)


@pytest.mark.parametrize(
    "word",
    ["d4", "r2", "z1", "10.0.0.8", ":6201", "R10.0.0.7", "/sd", "_rack 8", "r1z2/sdc"],
)
def test_search_words_that_do_not_match(word: str) -> None:
    assert not parse_search(word).matches(DEVICE)


@pytest.mark.parametrize(
    "word", ["", "x", "d", "z2r1", "10.0.0", "R", "host.example", "z2 ", "d3;", "::1"]
)
def test_search_words_that_mean_nothing_are_refused(word: str) -> None:
    with pytest.raises(BadDevice):
        parse_search(word)


def test_ipv6_is_compared_in_full() -> None:
    device = Device.from_dict(
        {**ENTRY, "ip": "2001:0db8:0000:0000:0000:0000:0000:0001"}
    )
    assert parse_search("[2001:DB8::1]:6200").matches(device)
    assert not parse_search("[2001:db8::2]").matches(device)


def test_weight_is_searched_exactly() -> None:
    assert Search(weight=100.0).matches(DEVICE)
    assert not Search(weight=99.0).matches(DEVICE)
    assert Search(weight=100.0).select([None, DEVICE]) == [DEVICE]


def test_a_new_device_by_one_word() -> None:
    device = parse_new_device("r2z3-10.0.0.1:6200R10.1.0.1:6300/sda_first of all")
    assert (device.region, device.zone, device.name) == (2, 3, "sda")
    assert (device.ip, device.port) == ("10.0.0.1", 6200)
    assert (device.replication_ip, device.replication_port) == ("10.1.0.1", 6300)
    assert device.meta == "first of all"


def test_a_new_device_replicates_over_its_service_address() -> None:
    device = parse_new_device("z1-[fd00::1]:6200/sda")
    assert device.region is None
    assert device.ip == "fd00:0000:0000:0000:0000:0000:0000:0001"
    assert (device.replication_ip, device.replication_port) == (device.ip, 6200)


@pytest.mark.parametrize(
    "word",
    [
        "r1-10.0.0.1:6200/sda",
        "z1-10.0.0.1/sda",
        "z1-10.0.0.1:6200",
        "z1-10.0.0.1:6200/",
        "z1-10.0.0.1:6200/ sda",
        "z1-10.0.0.300:6200/sda",
        "z1-10.0.0.1:0/sda",
        "z1-10.0.0.1:65536/sda",
        "z1-10.0.0.1:6200R:6300/sda",
        "z1-host:6200/sda",
    ],
)
def test_new_devices_that_cannot_be_are_refused(word: str) -> None:
    with pytest.raises(BadDevice):
        parse_new_device(word)


def test_host_names_are_taken_in_options_only() -> None:
    device = new_device(zone=1, ip="Node-1.Example.com", port=6200, name="sda")
    assert device.ip == "node-1.example.com"


@pytest.mark.parametrize("text", ["", "1.2.3", "1.2.3.4.5", "a b", "-x", "[::g]", "1"])
def test_bad_addresses_are_refused(text: str) -> None:
    with pytest.raises(BadDevice):
        checked_address(text)


def test_a_change_names_only_what_changes() -> None:
    assert parse_change("10.0.0.9:6201R:6301/sdz_new") == {
        "ip": "10.0.0.9",
        "port": 6201,
        "replication_port": 6301,
        "name": "sdz",
        "meta": "new",
    }
    assert parse_change("_") == {"meta": ""}
