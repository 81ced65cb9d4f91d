from __future__ import annotations

import json
import time

import pytest
from tiny_runs import copy, opened

from scan_tf.errors import StageError
from scan_tf.pipeline.record import Record
from scan_tf.pipeline.run_dir import Run
from scan_tf.pipeline.stage import STAGES


def test_evaluation_and_export_are_out_of_date_after_training(finished, tmp_path):
    work = opened(copy(finished, tmp_path / "run", without="selflabel"))
    for stage in ("evaluate", "export", "selflabel"):
        assert not work.is_done(stage)
        with work.working(stage):
            pass
        assert work.is_done(stage)
    assert not work.is_done("evaluate")
    assert not work.is_done("export")


def stop(work: Run, error: type[BaseException]) -> None:
    assert work.record("pretext").status == "running"
    time.sleep(0.02)
    raise error


def test_a_record_tells_whether_its_stage_has_ended(finished, tmp_path):
    work = opened(copy(finished, tmp_path / "run", without="pretext"))
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), work.working("pretext"):
            stop(work, error)
        assert work.record("pretext").status == "interrupted"
    with work.working("pretext") as result:
        result["images"] = 7
    record = work.record("pretext")
    assert record.is_done
    assert record.result == {"images": 7}
    # The time of all three.
    assert record.wall_time_s >= 0.04


def test_another_config_may_follow_a_failure_but_not_a_checkpoint(finished, tmp_path):
    run = copy(finished, tmp_path / "run", without="pretext")
    with pytest.raises(ValueError), opened(run).working("pretext"):  # noqa: PT011
        raise ValueError
    other = opened(run, "pretext.epochs=7")
    assert not other.is_done("pretext")
    (run / "pretext" / "ckpt").mkdir(parents=True)
    with pytest.raises(StageError, match="pretext.epochs is 20 there, 7 here"):
        other.is_done("pretext")


def test_seeds_differ_between_stages_and_runs(finished):
    def seeds(*overrides):
        work = opened(finished, *overrides)
        return {stage: work.seed(stage) for stage in STAGES}

    mine, other, again = seeds(), seeds("seed=1"), seeds("clustering_seed=1")
    assert len({*mine.values(), *other.values()}) == 2 * len(STAGES)
    assert {s for s in STAGES if mine[s] != again[s]} == {"scan", "selflabel"}
    # They are int32 inside the graphs.
    assert all(0 <= seed < 2**31 for seed in (*mine.values(), *other.values()))


def test_the_number_of_clusters_is_that_of_the_classes_or_the_given_one(finished):
    assert opened(finished).num_clusters == 3
    assert opened(finished, "scan.num_clusters=60").num_clusters == 60
    with pytest.raises(StageError, match="scan.num_clusters: is 61, expected 2 to 60"):
        _ = opened(finished, "scan.num_clusters=61").num_clusters


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "{}", '{"status": "done"}', "\udcff"])
def test_a_damaged_record_is_refused(finished, tmp_path, text):
    run = copy(finished, tmp_path / "run")
    path = run / "status" / "scan.json"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    assert opened(run).is_done("scan")  # by its copy
    (run / "scan" / "record.json").unlink()
    with pytest.raises(
        StageError, match=r"scan\.json: damaged .* --redo scan makes the stage anew"
    ):
        opened(run).is_done("selflabel")
    opened(run).redo("scan")
    assert opened(run).record("scan") == Record()


def test_a_record_from_before_a_setting_existed_counts_as_its_default(finished, tmp_path):
    run = copy(finished, tmp_path / "run")
    path = run / "status" / "scan.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    del record["sha256"]
    del record["config"]["scan"]["head_epochs"]
    del record["config"]["scan"]["optimizer"]["clip_norm"]
    path.write_text(json.dumps(record), encoding="utf-8")
    assert opened(run).is_done("scan")
    with pytest.raises(StageError, match=r"scan.optimizer.clip_norm is 0.0 there, 1.0 here"):
        opened(run, "scan.optimizer.clip_norm=1.0").is_done("scan")
