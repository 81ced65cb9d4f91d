from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from scan_tf.errors import DataError, MissingDataError, StageError
from scan_tf.evaluation.assignments import Assignment
from scan_tf.handover import safe_names, sorting, undo_file
from scan_tf.handover.sorted_file import Sorted

FILES = {
    "a/1.jpg": (0, "cat", 0.9),
    "b/1.jpg": (0, "cat", 0.8),
    "b/2.jpg": (1, "", 0.7),
    "c/3.jpg": (11, "cat", 0.3),
}


@pytest.fixture
def root(tmp_path) -> Path:
    for path in FILES:
        (tmp_path / "photos" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / path).write_text(path)
    return tmp_path / "photos"


def rows(files=FILES) -> list[Assignment]:
    return [Assignment(path, *found) for path, found in files.items()]


def planned(root, target, **how):
    return sorting.plan(rows(), root, target, num_clusters=12, **how)


def tree(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())


def state(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        p: ((s := (folder / p).stat()).st_mtime_ns, s.st_mode, (folder / p).read_bytes())
        for p in tree(folder)
    }


def test_the_plan_says_what_will_be_made(root, tmp_path):
    plan = planned(root, tmp_path / "out", below=0.5)
    assert plan.folders == {"cat": 2, "cluster-01": 1, "none of these": 1}
    assert [place for _, place in plan.moves] == [
        "cat/a__1.jpg",
        "cat/b__1.jpg",
        "cluster-01/2.jpg",
        "none of these/3.jpg",
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("action", ["copy", "symbolic", "hard"])
def test_sort_and_undo(root, tmp_path, action):
    before, target = state(root), tmp_path / "deep" / "out"
    assert sorting.sort(planned(root, target), action, progress=False) == 4
    assert tree(target) == [
        "cat/3.jpg",
        "cat/a__1.jpg",
        "cat/b__1.jpg",
        "cluster-01/2.jpg",
        "sort-undo.jsonl",
    ]
    made = target / "cat" / "b__1.jpg"
    assert made.read_text() == "b/1.jpg"
    assert made.is_symlink() == (action == "symbolic")
    assert made.samefile(root / "b/1.jpg") == (action != "copy")
    assert state(root) == before
    done = sorting.undo(target / "sort-undo.jsonl")
    assert (done.removed, done.kept) == (4, ())
    assert not target.exists()
    assert state(root) == before


@pytest.mark.parametrize("action", ["copy", "symbolic", "hard"])
@pytest.mark.parametrize("after", range(5))
def test_an_interrupted_sort_goes_on_or_is_taken_back(root, tmp_path, monkeypatch, action, after):
    target, make, count = tmp_path / "out", Sorted.make, iter(range(9))

    def killed(self, target):
        if next(count) == after:
            raise KeyboardInterrupt
        make(self, target)

    monkeypatch.setattr(Sorted, "make", killed)
    plan = planned(root, target)
    if after < 4:
        with pytest.raises(KeyboardInterrupt):
            sorting.sort(plan, action, progress=False)
    else:
        sorting.sort(plan, action, progress=False)
    shutil.copytree(target, tmp_path / "too", symlinks=True)
    monkeypatch.undo()
    # A kill can leave a part of a line, and a part of a copy.
    with open(target / "sort-undo.jsonl", "ab") as file:
        file.write(b'{"source": "/half of a li')
    assert sorting.sort(planned(root, target), action, progress=False) == 4 - min(after, 4)
    assert sum(place.startswith("c") for place in tree(target)) == 4
    assert sorting.undo(target / "sort-undo.jsonl").removed == 4
    assert not target.exists()
    if action != "hard":  # of the copied folder they are no links
        assert sorting.undo(tmp_path / "too" / "sort-undo.jsonl").removed == after
        assert not (tmp_path / "too").exists()


def test_a_part_of_a_copy_is_cleared_away(root, tmp_path):
    target, file = tmp_path / "out", Sorted.of(root / "a/1.jpg", "cat/a__1.jpg", "copy")
    for again in (sorting.undo, None):
        (target / "cat").mkdir(parents=True)
        undo_file.write(target / "sort-undo.jsonl", [file])
        file.temporary(target).write_text("half of it")
        if again is not None:
            assert again(target / "sort-undo.jsonl").removed == 0
            assert not target.exists()
    assert sorting.sort(planned(root, target), "copy", progress=False) == 4
    assert not any(place.endswith(".sorting") for place in tree(target))


def test_nothing_is_overwritten(root, tmp_path):
    (tmp_path / "out" / "cat").mkdir(parents=True)
    (tmp_path / "out" / "cat" / "3.jpg").write_text("mine")
    with pytest.raises(DataError, match=r"1 of the files to make are there already.*cat/3\.jpg"):
        sorting.sort(planned(root, tmp_path / "out"), "copy", progress=False)
    assert tree(tmp_path / "out") == ["cat/3.jpg"]
    file = Sorted.of(root / "c/3.jpg", "cat/3.jpg", "copy")
    for action in ("copy", "symbolic", "hard"):
        with pytest.raises(DataError, match="is there already and stays as it is"):
            Sorted(**(vars(file) | {"action": action})).make(tmp_path / "out")
    assert (tmp_path / "out" / "cat" / "3.jpg").read_text() == "mine"
    assert tree(tmp_path / "out") == ["cat/3.jpg"]


def test_another_sort_in_the_same_folder_is_refused(root, tmp_path):
    sorting.sort(planned(root, tmp_path / "out"), "copy", progress=False)
    renamed = [Assignment(r.path, r.cluster, "dog", r.confidence) for r in rows()]
    plan = sorting.plan(renamed, root, tmp_path / "out", num_clusters=12)
    with pytest.raises(StageError, match=r"holds another sort.*--undo .*sort-undo\.jsonl"):
        sorting.sort(plan, "copy", progress=False)
    with pytest.raises(StageError, match="holds another sort"):
        sorting.sort(planned(root, tmp_path / "out"), "hard", progress=False)


def test_undo_keeps_what_was_changed_and_the_last_copy(root, tmp_path):
    target = tmp_path / "out"
    sorting.sort(planned(root, target), "copy", progress=False)
    (target / "cat" / "a__1.jpg").write_text("retouched")
    (root / "b/2.jpg").unlink()
    (target / "cat" / "mine.txt").write_text("mine")
    done = sorting.undo(target / "sort-undo.jsonl")
    assert done.removed == 2
    assert {p.name: why for p, why in done.kept} == {
        "a__1.jpg": "has been changed since",
        "2.jpg": "is the last copy: the original is gone",
    }
    assert tree(target) == ["cat/a__1.jpg", "cat/mine.txt", "cluster-01/2.jpg", "sort-undo.jsonl"]
    (root / "b/2.jpg").write_text("back")
    assert sorting.undo(target / "sort-undo.jsonl").removed == 1
    assert tree(target) == ["cat/a__1.jpg", "cat/mine.txt", "sort-undo.jsonl"]


def test_the_last_hard_link_is_kept(root, tmp_path):
    sorting.sort(planned(root, tmp_path / "out"), "hard", progress=False)
    shutil.rmtree(root)
    done = sorting.undo(tmp_path / "out" / "sort-undo.jsonl")
    assert (done.removed, len(done.kept)) == (0, 4)


def test_images_that_are_gone_are_counted(root, tmp_path):
    (root / "a/1.jpg").unlink()
    plan = planned(root, tmp_path / "out")
    assert plan.missing == (root / "a/1.jpg",)
    assert [place for _, place in plan.moves] == ["cat/1.jpg", "cat/3.jpg", "cluster-01/2.jpg"]
    shutil.rmtree(root)
    root.mkdir()
    with pytest.raises(MissingDataError, match="none of the 4 images is there.*--images"):
        planned(root, tmp_path / "out")


def test_the_images_themselves_are_no_target(root, tmp_path):
    for target in (root, root / "sorted"):
        with pytest.raises(DataError, match="lies among the images"):
            planned(root, target)
    named = [Assignment("a/1.jpg", 0, "photos", 0.9)]
    with pytest.raises(DataError, match="holds the images themselves"):
        sorting.plan(named, root, tmp_path, num_clusters=2)


def test_too_little_space_is_said_before(root, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1))
    with pytest.raises(DataError, match="copies take 0 MiB, and 0 MiB are free.*--link"):
        sorting.sort(planned(root, tmp_path / "out"), "copy", progress=False)
    assert not (tmp_path / "out").exists()
    assert sorting.sort(planned(root, tmp_path / "out"), "hard", progress=False) == 4


def test_what_is_no_undo_file_is_refused(root, tmp_path):
    with pytest.raises(MissingDataError, match="no such file"):
        sorting.undo(tmp_path / "none.jsonl")
    (tmp_path / "x.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="is no undo file"):
        sorting.undo(tmp_path / "x.jsonl")
    victim = tmp_path / "victim" / "file"
    victim.parent.mkdir()
    victim.write_text("mine")
    (tmp_path / "out").mkdir()
    outside = ("../victim/file", str(victim), "../victim", "a/../../victim/file", "victim")
    for place in (*outside, "a/b\0", "a\ud800/b"):
        path = tmp_path / "out" / "undo.jsonl"
        undo_file.write(path, [])
        line = {"source": str(victim), "place": place, "action": "copy", "size": 4, "mtime_ns": 0}
        with open(path, "a") as file:
            file.write(json.dumps(line) + "\n")
        with pytest.raises(DataError, match=r"undo\.jsonl:2: damaged .*nothing was done"):
            sorting.undo(path)
    assert victim.read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("cat", "cat"),
        ("cats/dogs", "cats_dogs"),
        ("..", "_"),
        (".hidden ", "hidden"),
        ("con", "_con"),
        ("LPT1.jpg", "_LPT1.jpg"),
        ("a:b\t<c>?", "a_b__c__"),
        ("Ка́тя 猫", "Ка́тя 猫"),
    ],
)
def test_folder_names_are_safe(name, folder):
    assert safe_names.of_folder(name) == folder


def test_long_names_are_cut_and_stay_different():
    one, other = safe_names.of_folder("猫" * 300), safe_names.of_folder("猫" * 301)
    assert one != other
    assert max(len(os.fsencode(n)) for n in (one, other)) <= 200
    long = [f"{'x' * 240}{n}.jpeg" for n in range(2)]
    found = safe_names.of_files(long)
    assert len(set(found)) == 2
    assert all(n.endswith(".jpeg") and len(n) <= 200 for n in found)


def test_files_of_one_name_are_told_apart():
    paths = ["a/x.jpg", "b/X.JPG", "y.jpg", "a/b/z.jpg", "a__b/z.jpg", "a/\udcff.png"]
    assert safe_names.of_files(paths) == [
        "a__x.jpg",
        "b__X.JPG",
        "y.jpg",
        "a__b__z.jpg",
        "a__b__z (2).jpg",
        "\udcff.png",
    ]


def test_clusters_of_one_name_share_a_folder_and_similar_names_do_not(root, tmp_path):
    names = {0: "a/b", 1: "a:b", 11: "A_B"}
    named = [Assignment(r.path, r.cluster, names[r.cluster], 1.0) for r in rows()]
    plan = sorting.plan(named, root, tmp_path / "out", num_clusters=12)
    assert sorted(plan.folders.values()) == [1, 1, 2]
    assert len({folder.casefold() for folder in plan.folders}) == 3
