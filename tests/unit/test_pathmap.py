# SPDX-License-Identifier: Apache-2.0

import posixpath
import random
from urllib.parse import quote, unquote

import pytest

from agentd.worker.pathmap import PathMap

SRC = PathMap([("/home/alice/src", "/workspace")])


# What a path is on the other side


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("/home/alice/src", "/workspace"),
        ("/home/alice/src/a/b.py", "/workspace/a/b.py"),
        ("/home/alice/src/with space/ü%20", "/workspace/with space/ü%20"),
    ],
)
def test_what_is_under_a_directory_moves_with_it_both_ways(host: str, inside: str) -> None:
    assert (SRC.inward(host), SRC.outward(inside)) == (inside, host)


@pytest.mark.parametrize(
    "path", ["/", "/home/alice", "/home/alice/srcs", "/home/alice/src.bak/a", "/workspace", "src", "", "."]
)
def test_what_is_not_under_one_is_not_mapped(path: str) -> None:
    assert SRC.inward(path) is None


@pytest.mark.parametrize("path", ["/", "/work", "/workspaces/a", "/home/alice/src", "workspace", ""])
def test_what_the_container_has_for_itself_is_not_mapped(path: str) -> None:
    assert SRC.outward(path) is None


@pytest.mark.parametrize(
    "path",
    [
        "/home/alice/src/a/",
        "//home/alice//src///a",
        "///home/alice/src/./a",
        "/home/alice/src/x/../a",
        "/home/bob/../alice/src/a",
        "/../home/alice/src/a",
    ],
)
def test_a_path_is_normalised_first(path: str) -> None:
    assert SRC.inward(path) == "/workspace/a"


@pytest.mark.parametrize(
    "tail", ["..", "../secret", "a/../../secret", "./..", "../srcs", "../src/../secret"]
)
def test_nothing_climbs_out_of_a_directory(tail: str) -> None:
    assert SRC.inward(f"/home/alice/src/{tail}") is None
    assert SRC.outward(f"/workspace/{tail}") is None


def test_no_file_has_a_nul_in_its_name() -> None:
    assert SRC.inward("/home/alice/src/a\0/../../b") is None
    assert SRC.outward("/workspace/a\0") is None


# Several directories


def test_the_longest_prefix_wins_whatever_came_first() -> None:
    for order in (1, -1):
        paths = PathMap([("/a", "/x"), ("/a/b", "/y"), ("/c", "/x/z")][::order])
        assert [paths.inward(each) for each in ("/a/1", "/a/b/1", "/a/bb")] == ["/x/1", "/y/1", "/x/bb"]
        assert [paths.outward(each) for each in ("/x/1", "/y/1", "/x/z/1")] == ["/a/1", "/a/b/1", "/c/1"]


def test_what_another_mount_hides_is_not_in_the_container() -> None:
    paths = PathMap([("/a", "/x"), ("/b", "/x/deep")])
    assert (paths.inward("/a/deep/1"), paths.inward("/a/deep"), paths.inward("/a/deeper")) == (
        None,
        None,
        "/x/deeper",
    )


def test_what_is_hidden_in_one_place_is_found_in_another() -> None:
    paths = PathMap([("/a/b", "/x"), ("/c", "/x/1"), ("/a", "/y")])
    assert paths.inward("/a/b/1/2") == "/y/b/1/2"


def test_of_two_hosts_the_first_given_is_meant_and_both_are_mapped() -> None:
    paths = PathMap([("/link", "/x"), ("/real", "/x")])
    assert (paths.inward("/link/1"), paths.inward("/real/1")) == ("/x/1", "/x/1")
    assert paths.outward("/x/1") == "/link/1"


def test_of_two_places_in_the_container_the_first_given_is_meant() -> None:
    paths = PathMap([("/a", "/x"), ("/a", "/y")])
    assert (paths.inward("/a/1"), paths.outward("/x/1"), paths.outward("/y/1")) == ("/x/1", "/a/1", "/a/1")


def test_the_root_can_be_mapped_from_either_side() -> None:
    outer = PathMap([("/", "/host")])
    assert (outer.inward("/"), outer.inward("/a"), outer.outward("/host/a")) == ("/host", "/host/a", "/a")
    assert outer.outward("/a") is None
    inner = PathMap([("/srv/root", "/")])
    assert (inner.inward("/srv/root"), inner.inward("/srv/root/a")) == ("/", "/a")
    assert (inner.outward("/"), inner.outward("/a/..")) == ("/srv/root", "/srv/root")


# What it is made of


def test_pairs_are_normalised_and_keep_their_order() -> None:
    paths = PathMap([("/b/", "/x//y"), ("/a", "/z"), ("/b", "/x/y")])
    assert paths.pairs == (("/b", "/x/y"), ("/a", "/z"))


def test_a_pair_that_is_no_directory_of_either_side_maps_nothing() -> None:
    assert PathMap([("volume", "/x"), ("/a", "relative"), ("", "")]).pairs == ()


@pytest.mark.parametrize(
    ("pairs", "same"),
    [([], True), ([("/a", "/a"), ("/b/", "/b")], True), ([("/a", "/a"), ("/b", "/c")], False)],
)
def test_a_map_knows_whether_it_changes_anything(pairs: list[tuple[str, str]], same: bool) -> None:
    paths = PathMap(pairs)
    assert (paths.same, paths.is_everything) == (same, False)


def test_a_map_that_changes_nothing_still_leaves_out_the_rest() -> None:
    paths = PathMap([("/a", "/a")])
    assert (paths.inward("/a/1"), paths.inward("/b")) == ("/a/1", None)
    assert PathMap([("/", "/")]).inward("relative") is None


@pytest.mark.parametrize("path", ["/a/../b/", "//a", "relative", ""])
def test_everything_is_itself_to_the_letter(path: str) -> None:
    paths = PathMap.everything()
    assert (paths.inward(path), paths.outward(path)) == (path, path)
    assert (paths.same, paths.is_everything, paths.pairs) == (True, True, (("/", "/"),))
    assert paths.inward_uri("file:///a/../b") == paths.outward_uri("file:///a/../b") == "file:///a/../b"


# URIs


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("file:///home/alice/src/a.py", "file:///workspace/a.py"),
        ("file://localhost/home/alice/src/a.py", "file://localhost/workspace/a.py"),
        ("file:///home/alice/src", "file:///workspace"),
        ("file:///home/alice/src/", "file:///workspace/"),
        ("file:///home/alice/src/a.py#L10:20", "file:///workspace/a.py#L10:20"),
        ("file:///home/alice/src/a.py?symbol=/x#L1", "file:///workspace/a.py?symbol=/x#L1"),
        ("file:///home/alice/src/a%20b%23%3F%25.py", "file:///workspace/a%20b%23%3F%25.py"),
        ("file:///home/alice/src/%C3%BC", "file:///workspace/%C3%BC"),
        ("file:///home/alice/src/not-utf-8-%FF", "file:///workspace/not-utf-8-%FF"),
        ("file:///home/alice/src/a+b@(c)", "file:///workspace/a+b@(c)"),
    ],
)
def test_a_file_uri_moves_both_ways(host: str, inside: str) -> None:
    assert (SRC.inward_uri(host), SRC.outward_uri(inside)) == (inside, host)


def test_directories_are_found_however_a_uri_spells_them() -> None:
    paths = PathMap([("/my src/ü", "/w s")])
    for uri in ("file:///my%20src/%c3%bc/a", "file:///my src/ü/a", "file:///m%79%20src//%C3%BC/./a"):
        assert paths.inward_uri(uri) == "file:///w%20s/a"


@pytest.mark.parametrize(
    "uri",
    [
        "file:///etc/passwd",
        "file://otherhost/home/alice/src/a",
        "file:/home/alice/src/a",
        "file://home/alice/src/a",
        "file://",
        "file:///C:/src",
        "https://localhost/home/alice/src/a",
        "/home/alice/src/a",
        "zed:///agent/home/alice/src",
        "file:///home/alice/src/../secret",
        "file:///home/alice/src/%2e%2e/secret",
        "file:///home/alice/src/..%2Fsecret",
        "file:///home/alice/src/%00",
        "",
    ],
)
def test_another_uri_stays_as_it_is(uri: str) -> None:
    assert (SRC.inward_uri(uri), SRC.outward_uri(uri)) == (uri, uri)


def test_a_uri_that_is_mapped_to_itself_keeps_its_spelling() -> None:
    assert PathMap([("/a", "/a")]).inward_uri("file:///a/%62%20c%3A") == "file:///a/%62%20c%3A"


def test_a_uri_of_the_root_has_one_slash() -> None:
    paths = PathMap([("/srv", "/")])
    assert paths.inward_uri("file:///srv/") == paths.inward_uri("file:///srv") == "file:///"
    assert paths.outward_uri("file:///") == "file:///srv/"


# What holds for all


def some_path(rng: random.Random) -> str:
    words = ["a", "b", "aa", "..", ".", "", "c d", "ü%"]
    return "/" + "/".join(rng.choice(words) for _ in range(rng.randrange(6)))


def some_map(rng: random.Random) -> PathMap:
    return PathMap((some_path(rng), some_path(rng)) for _ in range(rng.randrange(1, 5)))


def is_inside(path: str, directory: str) -> bool:
    return posixpath.commonpath((path, directory)) == directory


def normal(path: str) -> str:
    return "/" + posixpath.normpath(path).lstrip("/")


seeds = pytest.mark.parametrize("seed", range(5))


@seeds
def test_what_comes_out_lies_in_the_pair_of_a_directory_it_was_in(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(200):
        paths, path = some_map(rng), some_path(rng)
        there, back, was = paths.inward(path), paths.outward(path), normal(path)
        pairs = paths.pairs
        assert there is None or any(is_inside(was, a) and is_inside(there, b) for a, b in pairs)
        assert back is None or any(is_inside(was, b) and is_inside(back, a) for a, b in pairs)
        assert (back is None) == (not any(is_inside(was, b) for _, b in pairs))


@seeds
def test_what_went_in_comes_out_again_where_no_two_share_a_place(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(200):
        by_place = {inside: host for host, inside in some_map(rng).pairs}
        paths = PathMap((host, inside) for inside, host in by_place.items())
        path = some_path(rng)
        there = paths.inward(path)
        assert there is None or paths.outward(there) == normal(path)


@seeds
def test_a_uri_says_what_its_path_says(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(200):
        paths, path = some_map(rng), some_path(rng)
        moved = unquote(paths.inward_uri(f"file://{quote(path)}").removeprefix("file://"))
        mapped = paths.inward(path)
        assert moved == path if mapped is None else (moved.rstrip("/") or "/") == mapped
