from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from scan_tf import config
from scan_tf.errors import ConfigError, DataError, StageError
from scan_tf.pipeline import plan, sizes, status
from scan_tf.pipeline.plan import Seen
from scan_tf.training.progress import Progress, duration

# 1,000 images: 10 steps of 100 for each epoch of every stage.
SETTINGS = config.from_dict(
    {
        "pretext": {"name": "simclr", "epochs": 30, "batch_size": 100},
        "scan": {"epochs": 20, "batch_size": 100, "selection": "train"},
        "selflabel": {"epochs": 15, "batch_size": 100},
    }
)
# Half a second a step.
PRETEXT = Seen(step=60, total=300, steps_per_second=2.0, compile_s=7.0)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (89.4 * 60, "89 min"), (12_000, "3 h 20 min")],
)
def test_a_time_in_words(seconds, words):
    assert duration(seconds) == words


def test_the_first_steps_tell_of_the_stages_after():
    left = plan.remaining(SETTINGS, {"pretext": PRETEXT})
    assert list(left) == ["pretext", "neighbors", "scan", "selflabel", "evaluate", "export"]
    assert left["pretext"] == 240 / 2
    # As many passes as SimCLR has, two views forward and back, and a score of every epoch.
    assert left["scan"] == pytest.approx(200 / 2 * (2 + 1 / 3) / 2 + 7)
    # One view forward and back, one forward, and the guard's look at every epoch.
    assert left["selflabel"] == pytest.approx(150 / 2 * (5 / 3) / 2 + 7)
    assert plan.remaining(SETTINGS, {}) == {}


def test_what_was_measured_later_counts_more():
    scan = Seen(step=100, total=200, steps_per_second=1.0)
    left = plan.remaining(SETTINGS, {"pretext": PRETEXT, "scan": scan})
    assert left["scan"] == 100
    assert left["selflabel"] == pytest.approx(150 * (5 / 3) / (2 + 1 / 3))


def test_the_views_of_heads_alone_are_counted():
    cached = config.from_dict(
        config.to_dict(SETTINGS) | {"scan": {"batch_size": 100, "head_epochs": 5}}
    )
    left = [
        plan.remaining(
            dataclasses.replace(cached, scan=dataclasses.replace(cached.scan, cached_views=views)),
            {"pretext": PRETEXT},
        )["scan"]
        for views in (0, 3)
    ]
    # 400 passes a second.
    assert left[1] - left[0] == pytest.approx(3 * 1000 * (1 / 3) / 400)


FROZEN = config.from_dict(
    {
        "pretext": "pretrained",
        "scan": {"name": "temi", "epochs": 20, "batch_size": 100},
        "selflabel": {"epochs": 0},
    }
)
HEADS = Seen(step=0, total=200, steps_per_second=100.0, compile_s=8.0)


def test_of_a_finished_network_the_heads_are_planned():
    assert plan.trained(SETTINGS) == ["pretext", "scan", "selflabel"]
    assert plan.trained(FROZEN) == ["scan"]
    left = plan.remaining(FROZEN, {"scan": HEADS})
    assert left["scan"] == 2
    assert (left["pretext"], left["neighbors"], left["selflabel"]) == (0, 5, 0)
    chosen, told = plan.within(FROZEN, {"scan": HEADS}, 100)
    assert chosen.scan.epochs > 20
    assert chosen.pretext == FROZEN.pretext
    assert chosen.selflabel.epochs == 0
    assert 99 < sum(told.values()) <= 100
    with pytest.raises(ConfigError, match="--minutes: too few: one epoch of each stage takes abou"):
        plan.within(FROZEN, {"scan": HEADS}, 30)


def test_what_heads_do_not_tell_is_left_out():
    tuned = dataclasses.replace(FROZEN, selflabel=SETTINGS.selflabel)
    assert "selflabel" not in plan.remaining(tuned, {"scan": HEADS})
    tuning = Seen(step=0, total=150, steps_per_second=1.0, compile_s=5.0)
    chosen, told = plan.within(tuned, {"scan": HEADS, "selflabel": tuning}, 200)
    assert (chosen.scan.epochs, chosen.selflabel.epochs) == (17, 13)
    assert told["selflabel"] == 13 * 10 + 5


def test_of_the_whole_run_what_heads_do_not_tell_is_named(tmp_path):
    said: list[str] = []
    tuned = dataclasses.replace(FROZEN, selflabel=SETTINGS.selflabel)
    steps = {"step": HEADS.step, "total": HEADS.total, "compile_s": HEADS.compile_s}
    progress = SimpleNamespace(**steps, rate=lambda: HEADS.steps_per_second, say=said.append)
    status.tell(SimpleNamespace(config=tuned, root=tmp_path), "scan", progress)
    assert len(said) == 1
    assert said[0].startswith("  the whole run: about ")
    assert said[0].endswith(" left, and selflabel")


def test_the_guard_of_many_images_costs_little():
    alone = dataclasses.replace(SETTINGS.selflabel, guard="none")
    many = Seen(step=0, total=30 * 1000, steps_per_second=2.0)  # 100,000 images
    left = [
        plan.remaining(dataclasses.replace(SETTINGS, selflabel=section), {"pretext": many})
        for section in (alone, SETTINGS.selflabel)
    ]
    looks = left[1]["selflabel"] - left[0]["selflabel"]
    assert looks == pytest.approx(15 * 2000 * (1 / 3) / 400)


def test_passes_of_methods():
    def of(**tree):
        return plan.passes(config.from_dict(tree), "pretext" if "pretext" in tree else "scan")

    assert (of(pretext="simclr"), of(pretext="rotnet")) == (2, 4)
    assert of(pretext="moco") == pytest.approx(4 / 3)
    frozen = {"freeze_backbone": True}
    assert of(scan=frozen) == pytest.approx(2 / 3)
    assert of(scan=frozen | {"cached_views": 2}) < 0.1


def test_epochs_are_fitted_to_a_time():
    for budget in (120, 300, 1000):
        chosen, told = plan.within(SETTINGS, {"pretext": PRETEXT}, budget)
        longest_epochs = 5 + 6 + 4.2
        assert budget - longest_epochs < sum(told.values()) <= budget
        # What the plan says is what the stages will say of themselves, and compiling.
        fresh = Seen(0, 10 * chosen.pretext.epochs, 2.0, 7.0)
        left = plan.remaining(chosen, {"pretext": fresh})
        assert told == pytest.approx(left | {"pretext": left["pretext"] + 7})
    assert chosen.pretext.epochs > SETTINGS.pretext.epochs
    shares = [getattr(chosen, s).epochs / getattr(SETTINGS, s).epochs for s in plan.trained(chosen)]
    assert max(shares) == pytest.approx(min(shares), rel=0.1)


def test_too_short_a_time_is_refused():
    message = "--minutes: too few: one epoch of each stage takes .*, and 30 s are left"
    with pytest.raises(ConfigError, match=message):
        plan.within(SETTINGS, {"pretext": PRETEXT}, 30)


def test_batches_are_fitted_to_few_images():
    fitted, notes = sizes.fitted(SETTINGS, 90)
    assert [fitted.pretext.batch_size, fitted.scan.batch_size] == [32, 32]
    assert notes["pretext.batch_size"] == "32 in place of 100"
    assert len(notes) == 3
    assert sizes.fitted(SETTINGS, 100) == (SETTINGS, {})
    kept, _ = sizes.fitted(SETTINGS, 90, given={"scan.batch_size"})
    assert (kept.pretext.batch_size, kept.scan.batch_size) == (32, 100)


@pytest.mark.parametrize(
    ("count", "said"), [(1, "there is only 1 image"), (3, "are only 3 images")]
)
def test_too_few_images_for_any_clustering_are_refused(count, said):
    with pytest.raises(DataError, match=f"{said} to learn from, expected at least 4"):
        sizes.check_count(count)
    sizes.check_count(4)


def test_neighbors_are_fitted_to_few_images():
    fitted, notes = sizes.fitted(SETTINGS, 16)
    assert (fitted.neighbors.k, fitted.neighbors.k_validation) == (4, 5)
    assert notes["neighbors.k"] == "4 in place of 20"
    assert sizes.fitted(SETTINGS, 16, given={"neighbors.k"})[0].neighbors.k == 20
    assert sizes.fitted(SETTINGS, 21)[0].neighbors.k == 20


def test_a_run_is_not_stretched_beyond_its_epochs():
    seen = {"pretext": PRETEXT}
    stretched, _ = plan.within(SETTINGS, seen, 1e6)
    kept, told = plan.within(SETTINGS, seen, 1e6, stretch=False)
    assert stretched.pretext.epochs > SETTINGS.pretext.epochs
    assert kept == SETTINGS
    assert sum(told.values()) < 1e6


@pytest.mark.parametrize(
    ("tree", "num_test", "message"),
    [
        ({"selflabel": {"batch_size": 101}}, 5, "selflabel.batch_size: 101 is more than the 100"),
        ({"scan": {"batch_size": 91}}, 5, "scan.batch_size: 91 is more than the 90"),
        ({"neighbors": {"k": 100}}, 5, "neighbors.k = 100 needs at least 101 images, got 100"),
        ({"neighbors": {"k_validation": 10}}, 5, "neighbors.k_validation = 10 needs at least 11"),
        ({"scan": {"selection": "test"}}, 5, "neighbors.k_validation = 5 needs at least 6 images"),
        ({"scan": {"selection": "test"}}, None, "scan.selection: 'test', but 'digits' has no test"),
    ],
)
def test_what_a_later_stage_would_refuse_is_refused_at_the_start(tree, num_test, message):
    small = {name: {"batch_size": 10} for name in ("pretext", "scan", "selflabel")}
    for name, section in tree.items():
        small[name] = small.get(name, {}) | section
    with pytest.raises((DataError, StageError), match=message):
        sizes.check(config.from_dict(small), 100, num_test)


def test_progress_tells_the_rate_once_it_means_something(tmp_path, monkeypatch, capsys):
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr("scan_tf.training.progress.time.monotonic", lambda: float(next(clock)))
    known = []
    with Progress(tmp_path / "pretext", 100, 0, shown=True, when_known=known.append) as progress:
        progress.announce("no XLA")
        progress.compiled("no XLA")
        for step in range(1, 9):
            progress.update(step)
            progress.log({"step": step, "loss": 2.5, "lr": 0.1})
            assert (progress.rate() is None) == (step < 4)
    assert known == [progress]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "  pretext: compiling the training step (no XLA) ..."
    assert lines[1].startswith("  pretext: compiling (no XLA) took ")
    # No terminal: plain lines now and then.
    assert len(lines) > 2
    assert all(line.startswith("  pretext: step ") and "\r" not in line for line in lines[2:])
    assert "left, loss 2.5" in lines[-1]
    assert '"step": 8, "total": 100' in (tmp_path / "pretext" / "progress.json").read_text()
