"""The journal of corrections, and what its entries mean."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest

from scan_tf.errors import ConfigError, StageError
from scan_tf.explorer.corrections import NONE, UNLABELLED, UNSURE, Corrections
from scan_tf.explorer.journal import Journal

OF = {"stage": "scan", "weights": "a" * 64, "split": "train", "images": 6, "digest": None}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "explore" / "journal.jsonl"


def filled(path, count=3):
    journal = Journal(path, OF)
    for number in range(count):
        assert journal.append({"do": "move", "rows": [number], "to": 1}) == number + 1
    journal.close()
    return path


def test_what_is_appended_is_read_again(path):
    filled(path)
    lines = path.read_text().splitlines()
    assert [json.loads(line)["seq"] for line in lines] == [0, 1, 2, 3]
    assert json.loads(lines[0])["of"] == OF
    again = Journal(path, OF)
    assert again.seq == 3
    assert again.notes == []
    assert [entry["rows"] for entry in again.entries] == [[0], [1], [2]]
    assert all(entry["at"] for entry in again.entries)


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_is_dropped_with_a_word(path, cut):
    filled(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    journal = Journal(path, OF)
    assert journal.seq == 2
    assert "never finished and is dropped" in journal.notes[0]
    assert journal.append({"do": "undo"}) == 3
    journal.close()
    lines = path.read_bytes().splitlines(keepends=True)
    assert lines[:3] == whole.splitlines(keepends=True)[:3]
    assert json.loads(lines[3])["do"] == "undo"


def test_a_journal_cut_anywhere_can_be_opened(path):
    filled(path)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        journal = Journal(path, OF)
        finished = whole[:size].count(b"\n")
        assert journal.seq == max(0, finished - 1)
        journal.append({"do": "discard"})
        journal.close()
        assert path.read_bytes().endswith(b'"do":"discard"}\n')


def test_a_last_line_of_zeros_is_dropped(path):
    filled(path)
    path.write_bytes(path.read_bytes() + b"\0" * 40 + b"\n")
    assert Journal(path, OF).seq == 3


def test_damage_before_the_end_is_refused(path):
    filled(path)
    path.write_bytes(path.read_bytes().replace(b'"seq":2', b'"seq":7'))
    with pytest.raises(StageError, match=r"damaged in line 3 of 4.*from a copy"):
        Journal(path, OF)


def test_another_format_is_refused(path):
    filled(path)
    path.write_bytes(path.read_bytes().replace(b'"journal":1', b'"journal":9'))
    with pytest.raises(StageError, match="expected a journal of format 1, got 9"):
        Journal(path, OF)


def test_a_journal_of_other_weights_is_set_aside(path):
    before = filled(path).read_bytes()
    for number in (1, 2):
        other = Journal(path, OF | {"weights": str(number) * 64})
        assert other.seq == 0
        away = path.with_name(f"journal-{number}.jsonl")
        assert f"kept in {away}" in other.notes[0]
        other.close()
    assert path.with_name("journal-1.jsonl").read_bytes() == before
    assert "3 corrections" not in other.notes[0]


def test_what_cannot_be_saved_leaves_the_journal_as_it_was(path, monkeypatch):
    filled(path)
    journal, before, write = Journal(path, OF), path.read_bytes(), os.write

    def full(descriptor, content):
        write(descriptor, content[:7])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StageError, match="not saved.*No space left"):
        journal.append({"do": "undo"})
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert journal.append({"do": "undo"}) == 4


class Book:
    """Corrections of 6 images in 3 clusters, and the entries that led to them."""

    def __init__(self):
        self.entries = []
        self.now = Corrections(6, 3)
        self.predicted = np.array([0, 0, 1, 1, 2, 2], np.int32)

    def do(self, do, **more):
        entry = {"seq": len(self.entries) + 1, **self.now.checked({"do": do, **more})}
        self.entries.append(entry)
        self.now.add(entry)
        again = Corrections(6, 3, self.entries).state
        for name, value in vars(self.now.state).items():
            np.testing.assert_array_equal(getattr(again, name), value), name
        return self.groups

    @property
    def groups(self):
        return self.now.state.shown(self.predicted).tolist()


@pytest.fixture
def book():
    return Book()


def test_moves_marks_and_undo(book):
    assert book.do("move", rows=[0, 5], to=1) == [1, 0, 1, 1, 2, 1]
    book.do("mark", rows=[0], **{"as": "none"})
    book.do("mark", rows=[1], **{"as": "unsure"})
    assert book.now.state.labels.tolist() == [NONE, UNSURE, *[UNLABELLED] * 3, 1]
    assert book.groups == [0, 0, 1, 1, 2, 1]
    assert book.now.undoes == "1 image marked as not sure"
    book.do("undo")
    book.do("undo")
    assert book.now.state.labels.tolist() == [1, *[UNLABELLED] * 4, 1]
    assert book.do("undo") == book.predicted.tolist()
    assert book.now.redoes == "2 images to cluster 1"
    assert book.do("redo") == [1, 0, 1, 1, 2, 1]
    book.do("mark", rows=[0, 5], **{"as": ""})
    assert book.now.redoes is None
    assert book.groups == book.predicted.tolist()


def test_merged_groups_stand_for_one(book):
    book.do("name", group=0, name=" ant ")
    book.do("move", rows=[4], to=0)
    assert book.do("merge", groups=[0], into=1) == [1, 1, 1, 1, 1, 2]
    assert book.now.state.groups == [1, 2]
    assert book.now.state.names == {0: "ant", 1: "ant"}
    assert book.do("merge", groups=[1], into=2) == [2] * 6
    book.do("undo")
    assert book.do("undo") == [0, 0, 1, 1, 0, 2]
    assert book.now.state.names == {0: "ant"}


def test_a_split_makes_a_group_that_undo_takes_back(book):
    book.do("move", rows=[0], to=1)
    assert book.do("split", group=1, rows=[0, 3]) == [3, 0, 1, 3, 2, 2]
    assert book.now.state.labels[0] == 3
    book.do("move", rows=[5], to=3)
    book.do("undo")
    assert book.do("undo") == [1, 0, 1, 1, 2, 2]
    # A classifier that was fitted meanwhile has it all the same.
    assert book.now.state.resolve(3) == 1
    assert book.do("make", rows=[2], of=1, name="new") == [1, 0, 4, 1, 2, 2]
    assert book.now.state.groups == [0, 1, 2, 4]


def test_what_a_split_says_holds_until_a_classifier_is_accepted(book):
    book.do("split", group=0, rows=[0])
    book.do("move", rows=[4], to=3)
    book.do("accept", digest="d")
    book.predicted = np.array([3, 3, 1, 1, 2, 2], np.int32)
    assert book.groups == [3, 3, 1, 1, 3, 2]
    assert book.now.accepted == "d"
    book.do("undo")
    assert book.do("undo") == [0, 0, 1, 1, 2, 2]
    assert book.do("redo") == [3, 3, 1, 1, 2, 2]
    book.do("discard")
    book.predicted = np.array([0, 0, 1, 1, 2, 2], np.int32)
    assert book.now.accepted is None
    assert book.groups == [3, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ({"do": "undo"}, "nothing to take back"),
        ({"do": "redo"}, "nothing to bring again"),
        ({"do": "fly"}, "unknown"),
        ({}, "unknown"),
        ({"do": "move", "rows": [0], "to": 3}, "no cluster 3"),
        ({"do": "move", "rows": [0], "to": True}, "number of a cluster"),
        ({"do": "move", "rows": [6], "to": 0}, "expected 0 to 5"),
        ({"do": "move", "rows": [-1], "to": 0}, "expected 0 to 5"),
        ({"do": "move", "rows": [], "to": 0}, "list of images"),
        ({"do": "move", "rows": "all", "to": 0}, "list of images"),
        ({"do": "mark", "rows": [0], "as": "great"}, "expected none, unsure"),
        ({"do": "merge", "groups": [1], "into": 1}, "another group"),
        ({"do": "merge", "groups": [], "into": 1}, "list of groups"),
        ({"do": "name", "group": 0, "name": "a\nb"}, "characters in one line"),
        ({"do": "name", "group": 0, "name": "=1+1"}, "formula"),
        ({"do": "name", "group": 0, "name": 7}, "expected text"),
        ({"do": "accept"}, "digest"),
    ],
)
def test_what_cannot_be_is_refused_in_words(book, action, message):
    with pytest.raises(ConfigError, match=message):
        book.now.checked(action)
    assert book.groups == book.predicted.tolist()


def test_an_entry_of_a_changed_file_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="no cluster 9"):
        Corrections(6, 3, [{"seq": 1, "do": "move", "rows": [0], "to": 9}])


def test_thousands_of_entries_are_read_in_a_moment(rng):
    entries = []
    for number in range(4000):
        if number % 3 == 2:
            entries.append({"do": "undo"})
        else:
            rows = rng.integers(0, 500, 10).tolist()
            entries.append({"do": "move", "rows": rows, "to": int(rng.integers(3))})
    entries = [{"seq": n + 1, **entry} for n, entry in enumerate(entries)]
    assert (Corrections(500, 3, entries).state.labels >= 0).sum() > 400
