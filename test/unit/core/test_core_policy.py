# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from swift.core.errors import ConfigError
from swift.core.policy import StoragePolicies


def read(**sections):
    named = {
        f"storage-policy:{name.removeprefix('p')}": values
        for name, values in sections.items()
    }
    return StoragePolicies.from_sections(named, "swift.conf")


EC = {
    "name": "deep",
    "policy_type": "erasure_coding",
    "ec_type": "isa_l_rs_vand",
    "ec_num_data_fragments": "4",
    "ec_num_parity_fragments": "2",
}


def test_without_sections_there_is_policy_0():
    policies = read()
    assert [policy.name for policy in policies] == ["Policy-0"]
    assert policies.default.index == 0


def test_policies_are_found_by_index_name_and_alias_in_any_case():
    policies = read(
        p0={"name": "gold", "default": "yes"},
        p3={"name": "silver", "aliases": "cheap, Slow"},
    )
    assert policies.by_name("SLOW") is policies.by_index("3")
    assert policies.by_index(None) is policies.default
    assert policies.by_index(7) is None
    assert policies.by_name("bronze") is None


def test_directories_and_rings_carry_the_index_but_for_policy_0():
    policies = read(p0={"name": "gold", "default": "yes"}, p3={"name": "silver"})
    gold, silver = policies
    assert (gold.ring_name, gold.objects_dir) == ("object", "objects")
    assert (silver.ring_name, silver.objects_dir) == ("object-3", "objects-3")
    assert (silver.tmp_dir, silver.pending_dir) == ("tmp-3", "async_pending-3")


@pytest.mark.parametrize(
    "sections",
    [
        pytest.param({"p1": {"name": "x", "default": "yes"}}, id="no policy 0"),
        pytest.param({"p0": {"name": "x"}, "p1": {"name": "y"}}, id="no default"),
        pytest.param(
            {"p0": {"name": "x", "default": "on"}, "p1": {"name": "X"}}, id="same name"
        ),
        pytest.param({"p0": {"name": "a b"}}, id="bad name"),
        pytest.param(
            {"p0": {"name": "x", "deprecated": "1"}}, id="only one deprecated"
        ),
        pytest.param({"p0": {"name": "x", "policy_type": "magic"}}, id="unknown kind"),
        pytest.param(
            {"p0": {"name": "x", "default": "on"}, "p1": {"name": "Policy-0"}},
            id="name of policy 0",
        ),
        pytest.param({"px": {"name": "x"}}, id="index is no number"),
        pytest.param(
            {"p0": {"name": "a", "default": "yes"}, "p1": EC, "p01": {"name": "b"}},
            id="two of one index",
        ),
    ],
)
def test_policies_that_make_no_sense_are_refused_by_name(sections):
    with pytest.raises(ConfigError, match=r"swift\.conf \[storage-policy"):
        read(**sections)


def test_erasure_coding_stands_beside_replication():
    policies = read(p0={"name": "gold", "default": "yes"}, p1=EC)
    deep = policies.by_name("deep")
    assert deep.engine == "egg:swift#erasure_coding.fs"
    assert deep.redundancy.ring_size == 6
    assert deep.redundancy.scheme == "isa_l_rs_vand 4+2"


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        pytest.param("ec_type", "magic", "deep: 'magic' is not", id="no back end"),
        pytest.param("ec_type", "", "deep: must be set", id="none named"),
        pytest.param("ec_num_data_fragments", "0", "", id="no data"),
        pytest.param("ec_num_parity_fragments", "many", "", id="parity is no number"),
        pytest.param("ec_num_parity_fragments", "5", "deep: isa_l", id="unsafe parity"),
        pytest.param("ec_object_segment_size", "-1", "", id="negative segments"),
        pytest.param("ec_object_segment_size", "511", "deep: seg", id="tiny segments"),
        pytest.param(
            "ec_object_segment_size", str(1 << 40), "deep: seg", id="vast segments"
        ),
        pytest.param("ec_duplication_factor", "0", "", id="kept never"),
    ],
)
def test_erasure_coding_that_cannot_be_is_refused_by_name(option, value, reason):
    with pytest.raises(ConfigError) as error:
        read(p0={"name": "gold", "default": "yes"}, p1={**EC, option: value})
    assert str(error.value).startswith(f"swift.conf [storage-policy:1] {option}: ")
    assert reason in str(error.value)


def test_more_fragments_than_the_back_end_can_do_are_refused():
    with pytest.raises(ConfigError, match=r"deep: isa_l_rs_vand 400\+2 cannot be"):
        read(
            p0={"name": "gold", "default": "yes"},
            p1={**EC, "ec_num_data_fragments": "400"},
        )


def test_unsafe_parity_is_allowed_for_what_is_there_already():
    old = {**EC, "ec_num_parity_fragments": "5", "deprecated": "yes"}
    policies = read(p0={"name": "gold", "default": "yes"}, p1=old)
    assert policies.by_index(1).is_deprecated
