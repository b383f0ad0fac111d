# SPDX-License-Identifier: Apache-2.0
"""Who may do what to which thing, directly and through everything that is derived.

One table says what each role may do with each container; all else follows from it:
methods on the account, its containers and objects, copies, the segments of manifests,
the targets of links, versions. Contract: api.md 7, middleware.md 29.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from hashlib import md5

import pytest

from test.functional.test_functional_filters_signed import sign
from test.support.client import Client
from test.support.cluster import ROOT, free_port, wait_until

KEY = "a key of the account"
SECRET = b"q7~Zk#w9^Xm"
ETAG = md5(SECRET).hexdigest()
REFERER = {"Referer": "http://www.good.example/page"}

USERS = {
    "owner": "user_rights_owner = key .admin",
    "member": "user_rights_member = key",
    "other": "user_other_user = key .admin",
    "reader": "user_friends_reader = key",
    "writer": "user_friends_writer = key",
    "account-reader": "user_friends_ro = key",
    "account-writer": "user_friends_rw = key",
    "account-admin": "user_friends_boss = key",
    "reseller-admin": "user_house_admin = key .reseller_admin",
    "reseller-reader": "user_house_audit = key .reseller_reader",
}
ACCOUNT_ACL = {
    "read-only": ["friends:ro"],
    "read-write": ["friends:rw"],
    "admin": ["friends:boss"],
}
CONTAINERS = {
    "private": {},
    "shared": {
        "X-Container-Read": "friends:reader,.r:.good.example",
        "X-Container-Write": "friends:writer",
    },
    "listed": {
        "X-Container-Read": "friends:reader,.r:.good.example,.rlistings",
        "X-Container-Write": "friends:writer",
    },
}
EVERYWHERE = frozenset(CONTAINERS)
NOWHERE: frozenset[str] = frozenset()
OPENED = frozenset(("shared", "listed"))


@dataclass(frozen=True)
class Rights:
    """Of one role: containers whose objects it reads and writes, and that it lists.

    manages: it makes, changes and removes containers.
    """

    reads: frozenset[str] = NOWHERE
    lists: frozenset[str] = NOWHERE
    writes: frozenset[str] = NOWHERE
    manages: bool = False
    reads_account: bool = False
    writes_account: bool = False
    is_known: bool = True


ALL = Rights(EVERYWHERE, EVERYWHERE, EVERYWHERE, True, True, True)
ROLES = {
    "owner": ALL,
    "account-admin": ALL,
    "reseller-admin": ALL,
    "account-writer": Rights(EVERYWHERE, EVERYWHERE, EVERYWHERE, True, True),
    "account-reader": Rights(EVERYWHERE, EVERYWHERE, reads_account=True),
    "reseller-reader": Rights(EVERYWHERE, EVERYWHERE, reads_account=True),
    "reader": Rights(OPENED, OPENED),
    "writer": Rights(writes=OPENED),
    "referrer": Rights(OPENED, frozenset(("listed",)), is_known=False),
    "member": Rights(),
    "other": Rights(),
    "anonymous": Rights(is_known=False),
}


@pytest.fixture(scope="module")
def endpoint(cluster):
    """Host and port of a proxy that knows the users; the filters are the cluster's."""
    if cluster is None:
        pytest.skip("no proxy with users of our own can be started in another cluster")
    port = free_port()
    lines = []
    for line in (cluster.folder / "etc/proxy-server.conf").read_text().splitlines():
        lines.append(f"bind_port = {port}" if line.startswith("bind_port") else line)
        if line == "use = egg:swift#tempauth":
            lines += USERS.values()
    conf = cluster.folder / "rights.conf"
    conf.write_text("\n".join(lines) + "\n")
    log = (cluster.folder / "log" / "rights.log").open("ab")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "bin" / "swift-proxy-server"), str(conf), "-v"],
        stdout=log,
        stderr=log,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    log.close()
    bare = Client("127.0.0.1", port, "", None)

    def answers():
        assert process.poll() is None, (cluster.folder / "log/rights.log").read_text()
        try:
            return bare.get("/healthcheck").status == 200
        except OSError:
            return False

    wait_until(answers, 30, "a proxy that knows the users")
    yield bare.host, bare.port
    process.terminate()
    process.wait(60)


class Caller(Client):
    """One role; `headers` go with each of its requests."""

    def __init__(self, host, port, base, token, headers=()):
        super().__init__(host, port, base, token)
        self.headers = dict(headers)

    def request(self, method, path, headers=None, body=None, **more):
        wanted = {**self.headers, **(headers or {})}
        return super().request(method, path, wanted, body, **more)


@pytest.fixture(scope="module")
def callers(endpoint):
    """Role → Caller. All speak of the account of the owner."""
    host, port = endpoint
    made = {}
    base = "/v1/AUTH_rights"
    for role, line in USERS.items():
        _user, account, user = line.split(" ")[0].split("_")
        auth = f"http://{host}:{port}/auth/v1.0"
        made[role] = Caller.authenticated(auth, f"{account}:{user}", "key")
        made[role].base = base
    made["anonymous"] = Caller(host, port, base, None)
    made["referrer"] = Caller(host, port, base, None, REFERER)
    return made


@pytest.fixture(scope="module")
def owner(callers):
    """The owner, in whose account are the containers, each with an object `o`."""
    owner = callers["owner"]
    acl = {"X-Account-Access-Control": json.dumps(ACCOUNT_ACL)}
    key = {"X-Account-Meta-Temp-Url-Key": KEY}
    for name, headers in CONTAINERS.items():
        assert owner.put(f"{owner.base}/{name}", None, headers).status == 201
        assert owner.put(f"{owner.base}/{name}/o", SECRET).status == 201
    assert owner.post(owner.base, {**acl, **key}).status == 204
    yield owner
    for row in owner.get(f"{owner.base}?format=json").json():
        owner.remove_container(f"{owner.base}/{row['name']}")


def judged(answer, allowed, rights, what, *, denials=()):
    """What is wrong with an answer, as a list of at most one line.

    denials: statuses that refuse as well as 401 and 403 do.
    """
    denied = {403 if rights.is_known else 401, *denials}
    if allowed and answer.status in (401, 403):
        return [f"{what}: {answer.status}, must be allowed"]
    if not allowed and answer.status not in denied:
        return [f"{what}: {answer.status}, must be one of {denied}"]
    if not allowed and SECRET in answer.body:
        return [f"{what}: gives the data away"]
    return []


def ids(role):
    return role


@pytest.mark.parametrize("role", ROLES, ids=ids)
def test_methods_on_account_and_containers(callers, owner, role):
    caller, rights, base = callers[role], ROLES[role], owner.base
    wrong = []
    for method in ("GET", "HEAD"):
        got = caller.request(method, base)
        wrong += judged(got, rights.reads_account, rights, f"{method} account")
    got = caller.post(base, {"X-Account-Meta-Seen": role})
    wrong += judged(got, rights.writes_account, rights, "POST account")
    for method in ("PUT", "DELETE"):
        got = caller.request(method, f"{base}?x=1")
        if got.status < 400:
            wrong += [f"{method} account: {got.status}"]
    for name in CONTAINERS:
        path = f"{base}/{name}"
        for method in ("GET", "HEAD"):
            got = caller.request(method, path)
            allowed = name in rights.lists
            wrong += judged(got, allowed, rights, f"{method} {name}")
        for method in ("PUT", "POST", "DELETE"):
            got = caller.request(method, path)
            wrong += judged(got, rights.manages, rights, f"{method} {name}")
            if method == "DELETE" and rights.manages:
                assert got.status == 409
    got = caller.put(f"{base}/new-of-{role}")
    wrong += judged(got, rights.manages, rights, "PUT new container")
    got = caller.delete(f"{base}/new-of-{role}")
    wrong += judged(got, rights.manages, rights, "DELETE new container")
    assert wrong == []


@pytest.mark.parametrize("role", ROLES, ids=ids)
def test_methods_on_objects(callers, owner, role):
    caller, rights, base = callers[role], ROLES[role], owner.base
    wrong = []
    for name in CONTAINERS:
        reads, writes = name in rights.reads, name in rights.writes
        for method in ("GET", "HEAD"):
            for headers in ({}, {"Range": "bytes=0-99"}, {"If-None-Match": ETAG}):
                got = caller.request(method, f"{base}/{name}/o", headers)
                wrong += judged(got, reads, rights, f"{method} {name}/o {headers}")
            got = caller.request(method, f"{base}/{name}/absent")
            wrong += judged(got, reads, rights, f"{method} {name}/absent")
        victim = f"{base}/{name}/victim-{role}"
        assert owner.put(victim, b"old").status == 201
        for method in ("POST", "PUT", "DELETE"):
            got = caller.request(method, victim, {"X-Object-Meta-Seen": "yes"})
            wrong += judged(got, writes, rights, f"{method} {name}/victim")
        got = owner.get(victim)
        assert (got.status, got.body) == ((404, got.body) if writes else (200, b"old"))
        assert "x-object-meta-seen" not in got.headers
        owner.delete(victim)
    assert wrong == []


@pytest.mark.parametrize("role", ROLES, ids=ids)
def test_copies_need_both_rights(callers, owner, role):
    caller, rights, base = callers[role], ROLES[role], owner.base
    wrong = []
    for source in CONTAINERS:
        for target in CONTAINERS:
            allowed = source in rights.reads and target in rights.writes
            copy = {"Destination": f"{target}/copy"}
            got = caller.request("COPY", f"{base}/{source}/o", copy)
            wrong += judged(got, allowed, rights, f"COPY {source} to {target}")
            copy = {"X-Copy-From": f"{source}/o"}
            got = caller.put(f"{base}/{target}/copy", None, copy)
            wrong += judged(got, allowed, rights, f"PUT {target} from {source}")
            made = owner.delete(f"{base}/{target}/copy").status == 204
            if made != allowed:
                wrong += [f"{source} to {target}: made is {made}"]
    assert wrong == []


# --- Pointers -------------------------------------------------------------------------


def slo(owner, path, target):
    listed = json.dumps([{"path": f"/{target}/o"}])
    return owner.put(f"{path}?multipart-manifest=put", listed)


def dlo(owner, path, target):
    return owner.put(path, b"", {"X-Object-Manifest": f"{target}/o"})


def link(owner, path, target):
    return owner.put(path, b"", {"X-Symlink-Target": f"{target}/o"})


def static_link(owner, path, target):
    etag = {"X-Symlink-Target-Etag": ETAG}
    return owner.put(path, b"", {"X-Symlink-Target": f"{target}/o", **etag})


@pytest.fixture(scope="module")
def pointers(owner):
    """(kind, container of the pointer, container of its target) → path."""
    made = {}
    for make in (slo, dlo, link, static_link):
        for where in ("shared", "private"):
            for target in CONTAINERS:
                path = f"{owner.base}/{where}/{make.__name__}-to-{target}"
                assert make(owner, path, target).status == 201
                made[make.__name__, where, target] = path
    return made


@pytest.mark.parametrize("role", ROLES, ids=ids)
def test_what_a_pointer_opens_is_what_may_be_read_directly(callers, pointers, role):
    caller, rights = callers[role], ROLES[role]
    wrong = []
    for (kind, where, target), path in pointers.items():
        allowed = where in rights.reads and target in rights.reads
        if kind == "dlo":
            allowed = allowed and target in rights.lists
        for headers in ({}, {"Range": "bytes=0-99"}):
            got = caller.get(path, headers)
            what = f"GET {kind} {where} to {target}"
            # A manifest that may be read, of segments that may not: a conflict.
            conflicts = {409} if kind == "slo" and where in rights.reads else ()
            wrong += judged(got, allowed, rights, what, denials=conflicts)
            if allowed and got.body != SECRET:
                wrong += [f"{what}: {got.body!r}"]
        for query in ("multipart-manifest=get", "symlink=get"):
            own = caller.get(f"{path}?{query}")
            if SECRET in own.body and not allowed:
                wrong += [f"{what} with {query}: gives the data away"]
    assert wrong == []


@pytest.mark.parametrize("role", ROLES, ids=ids)
def test_who_makes_a_pointer_reads_no_more_than_before(callers, owner, role):
    caller, rights, base = callers[role], ROLES[role], owner.base
    wrong = []
    for make in (slo, dlo, link, static_link):
        for where in ("private", "shared"):
            for target in CONTAINERS:
                path = f"{base}/{where}/made-by-{role}"
                what = f"{make.__name__} {where} to {target}"
                got = make(caller, path, target)
                if where not in rights.writes:
                    # Segments are looked at first; what is wrong there is a 400.
                    looked = {400} if make is slo else ()
                    wrong += judged(got, False, rights, f"PUT {what}", denials=looked)
                if make is static_link or make is slo:
                    # Both look at what they point to, and tell of its etag.
                    readable = target in rights.reads
                    if got.status < 300 and not readable:
                        wrong += [f"PUT {what}: {got.status}"]
                text = repr(got.headers) + repr(got.body)
                if target not in rights.reads and ETAG in text:
                    wrong += [f"PUT {what}: tells the etag"]
                seen = caller.get(path)
                if SECRET in seen.body and target not in rights.reads:
                    wrong += [f"GET {what}: gives the data away"]
                owner.delete(path)
    assert wrong == []


@pytest.mark.parametrize("role", ROLES, ids=ids)
def test_a_manifest_takes_away_only_segments_that_may_be_deleted(callers, owner, role):
    caller, rights, base = callers[role], ROLES[role], owner.base
    wrong = []
    for target in CONTAINERS:
        segment = f"{base}/{target}/segment"
        assert owner.put(segment, b"segment").status == 201
        listed = json.dumps([{"path": f"/{target}/segment"}])
        path = f"{base}/shared/manifest"
        assert owner.put(f"{path}?multipart-manifest=put", listed).status == 201
        caller.delete(f"{path}?multipart-manifest=delete")
        gone = owner.head(segment).status == 404
        # The manifest has to be read before anything in it can be deleted.
        allowed = (
            "shared" in rights.writes
            and "shared" in rights.reads
            and target in rights.writes
        )
        if gone and target not in rights.writes:
            wrong += [f"a segment in {target} is gone"]
        if allowed and not gone:
            wrong += [f"a segment in {target} is still there"]
        owner.delete(segment)
        owner.delete(path)
    assert wrong == []


@pytest.mark.parametrize("role", ROLES, ids=ids)
def test_segments_are_queued_for_deletion_by_who_may_delete_them(callers, owner, role):
    caller, rights, base = callers[role], ROLES[role], owner.base
    for target in ("private", "shared"):
        segment, path = f"{base}/{target}/segment", f"{base}/shared/manifest"
        assert owner.put(segment, b"segment").status == 201
        listed = json.dumps([{"path": f"/{target}/segment"}])
        assert owner.put(f"{path}?multipart-manifest=put", listed).status == 201
        got = caller.delete(f"{path}?multipart-manifest=delete&async=on")
        if target in rights.writes and "shared" in rights.writes & rights.reads:
            # From now on the expirer may delete the segment at any time.
            assert got.status < 300, (target, got)
            assert owner.head(path).status == 404
            owner.delete(segment)
            continue
        if "shared" not in rights.writes:
            assert owner.head(path).status == 200, (target, got)
        else:
            # Who may write and not read deletes the manifest as any object.
            assert (got.status, got.body) == (204, b"")
            assert owner.head(path).status == 404
        assert owner.get(segment).body == b"segment"
        owner.delete(segment)
        owner.delete(path)


@pytest.mark.parametrize("role", ROLES, ids=ids)
def test_changes_of_a_link_do_not_reach_its_target(callers, owner, role):
    caller, base = callers[role], owner.base
    for target in CONTAINERS:
        path = f"{base}/shared/link-of-{role}"
        assert link(owner, path, target).status == 201
        caller.post(path, {"X-Object-Meta-Seen": "yes"})
        caller.delete(path)
        got = owner.get(f"{base}/{target}/o")
        assert got.body == SECRET
        assert "x-object-meta-seen" not in got.headers
        owner.delete(path)


# --- Versions -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def versions(owner):
    """(path of an object, id of its old version, id of its current one).

    The container is open to those to whom `shared` is open.
    """
    container = f"{owner.base}/versions"
    headers = {**CONTAINERS["shared"], "X-Versions-Enabled": "true"}
    assert owner.put(container, None, headers).status == 201
    path = f"{container}/o"
    old = owner.put(path, SECRET).headers["x-object-version-id"]
    new = owner.put(path, b"new").headers["x-object-version-id"]
    yield path, old, new
    owner.post(container, {"X-Versions-Enabled": "false"})
    for row in owner.get(f"{container}?versions&format=json").json():
        owner.delete(f"{container}/{row['name']}?version-id={row['version_id']}")


@pytest.mark.parametrize("role", ROLES, ids=ids)
def test_versions_are_open_to_whom_the_container_is_open(
    callers, owner, versions, role
):
    caller, rights = callers[role], ROLES[role]
    path, old, _new = versions
    container = path.rpartition("/")[0]
    reads, lists = "shared" in rights.reads, "shared" in rights.lists
    writes = "shared" in rights.writes
    wrong = []
    for method in ("GET", "HEAD"):
        for query in ("", f"?version-id={old}"):
            got = caller.request(method, path + query)
            wrong += judged(got, reads, rights, f"{method} {query}")
        got = caller.request(method, f"{container}?versions&format=json")
        wrong += judged(got, lists, rights, f"{method} ?versions")
    if reads:
        assert caller.get(f"{path}?version-id={old}").body == SECRET
    # A version of its own for each caller, to be made current and deleted.
    mine = f"{path}-of-{role}"
    first = owner.put(mine, b"first").headers["x-object-version-id"]
    owner.put(mine, b"second")
    for method in ("PUT", "DELETE"):
        got = caller.request(method, f"{mine}?version-id={first}")
        wrong += judged(got, writes, rights, f"{method} ?version-id")
    expected = 404 if writes else 200
    assert owner.get(f"{mine}?version-id={first}").status == expected
    copy = {"Destination": "shared/copied-version"}
    got = caller.request("COPY", f"{path}?version-id={old}", copy)
    wrong += judged(got, reads and writes, rights, "COPY ?version-id")
    owner.delete(f"{owner.base}/shared/copied-version")
    assert wrong == []


@pytest.mark.parametrize("role", ROLES, ids=ids)
def test_hidden_containers_have_no_address(callers, versions, role):
    _path, old, _new = versions
    caller = callers[role]
    hidden = f"{caller.base}/%00versions%00versions"
    for path in (hidden, f"{hidden}/%00o%00{old}"):
        for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
            got = caller.request(method, path)
            assert 400 <= got.status < 500
            assert SECRET not in got.body


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE"])
def test_an_address_of_one_object_opens_no_version_of_another(
    callers, owner, versions, method
):
    path, old, new = versions
    mine = f"{owner.base}/shared/mine"
    stranger = callers["anonymous"]
    assert owner.put(mine, b"mine").status == 201
    query = sign(method, mine, key=KEY)
    targets = (f"versions/o?version-id={old}", "%00versions%00versions/%00o")
    headers = [{}]
    for target in targets:
        headers += [
            {"X-Copy-From": target},
            {"X-Symlink-Target": target},
            {"X-Symlink-Target": target, "X-Symlink-Target-Etag": ETAG},
            {"X-Object-Manifest": target},
        ]
    more = ("", f"&version-id={old}", "&symlink=get")
    for sent in headers:
        for extra in more:
            answers = [stranger.request(method, f"{mine}?{query}{extra}", sent)]
            for read in ("GET", "HEAD"):
                signed = sign(read, mine, key=KEY)
                answers.append(stranger.request(read, f"{mine}?{signed}{extra}"))
            answers.append(owner.get(mine))
            for answer in answers:
                assert SECRET not in answer.body, (sent, extra)
                assert ETAG not in repr(answer.headers), (sent, extra)
        # Nothing of the other object has been changed or taken away.
        assert owner.get(f"{path}?version-id={old}").body == SECRET
        assert owner.get(path).headers["x-object-version-id"] == new
    owner.delete(mine)


def test_an_address_opens_versions_of_its_object_by_its_method_only(
    callers, owner, versions
):
    path, old, new = versions
    stranger = callers["anonymous"]
    reading = sign("GET", path, key=KEY)
    got = stranger.get(f"{path}?{reading}&version-id={old}")
    assert (got.status, got.body) == (200, SECRET)
    for method in ("PUT", "DELETE", "POST"):
        got = stranger.request(method, f"{path}?{reading}&version-id={old}")
        assert got.status == 401
    other = sign("GET", f"{path}-2", key=KEY)
    assert stranger.get(f"{path}?{other}&version-id={old}").status == 401
    listing = stranger.get(f"{path.rpartition('/')[0]}?{reading}&versions&format=json")
    assert listing.status == 401
    assert owner.get(path).headers["x-object-version-id"] == new
    writing = sign("PUT", path, key=KEY)
    for read in ("GET", "DELETE"):
        got = stranger.request(read, f"{path}?{writing}&version-id={old}")
        assert got.status == 401
        assert SECRET not in got.body
