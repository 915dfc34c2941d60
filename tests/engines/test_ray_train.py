"""The log by which training tells how it goes."""

from __future__ import annotations

from isohop.engines.ray_train import Log


def test_steps_that_are_taken_again_are_told_once(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    log.begin("teacher", 50)
    for step, loss in ((25, 3.0), (50, 2.0)):
        log.tell("teacher", step, loss=loss)
    log.read()
    log.begin("teacher", 50)
    log.tell("teacher", 50, loss=1.0)
    log.begin("student", 10)
    log.read()
    assert list(log.parts) == ["teacher", "student"]
    teacher = log.parts["teacher"]
    assert (teacher.steps, teacher.done) == (50, 50)
    assert teacher.curves == {"loss": ((25, 3.0), (50, 1.0))}
    assert log.parts["student"].curves == {}


def test_a_line_that_was_cut_short_by_a_death_is_told_anew(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    log.begin("teacher", 50)
    log.tell("teacher", 25, loss=3.0)
    with log.file.open("a", encoding="utf-8") as opened:
        opened.write('{"part": "teacher", "step": 50, "lo')
    log.read()
    log.mend()
    log.tell("teacher", 50, loss=2.0)
    log.read()
    assert log.parts["teacher"].curves == {"loss": ((25, 3.0), (50, 2.0))}
