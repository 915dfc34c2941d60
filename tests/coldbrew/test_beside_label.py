"""Links are learned beside a label, but where they are in its way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isohop.coldbrew import distiller as of_all_models
from isohop.coldbrew.distiller import Distiller
from isohop.coldbrew.settings import DistillSettings
from isohop.graph import Graph
from tests.coldbrew.test_distill import write_features
from tests.coldbrew.test_distiller import citations, equal, train, trained

SETTINGS = DistillSettings(dimensions=32, steps=120, batch=256, negatives=32, link_weight=1.0)
LABEL = "paper.topic"
TOPICS, WIDTH, PAPERS = 3, 64, 600


def papers(path: Path, alike: bool) -> tuple[Graph, Path]:
    """Papers whose features tell their topic, with noise, and that cite papers of their own topic,
    or of others alone."""
    draw = np.random.default_rng(3)
    topics = np.arange(PAPERS) % TOPICS
    pairs = draw.integers(0, PAPERS, (6 * PAPERS, 2))
    same = topics[pairs[:, 0]] == topics[pairs[:, 1]]
    apart = pairs[:, 0] != pairs[:, 1]
    graph, _ = citations(path, np.unique(pairs[apart & (same == alike)], axis=0), PAPERS)
    values = draw.normal(size=(PAPERS, WIDTH)) + 2.0 * np.eye(WIDTH)[topics]
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    told = {"paper": values, "author": draw.normal(size=(2, WIDTH))}
    return graph, write_features(graph, path / "told", told)


def started(made: tuple[Graph, Path]) -> Distiller:
    distiller = Distiller.of(*made, SETTINGS, 1, LABEL, 1)
    distiller.start("teacher")
    return distiller


@pytest.mark.parametrize("alike", [True, False])
def test_links_are_learned_beside_a_label_unless_they_are_in_its_way(tmp_path, alike):
    distiller = started(papers(tmp_path, alike))
    assert distiller.settings.link_weight == (SETTINGS.link_weight if alike else 0.0)
    notes = " ".join(distiller.about()["notes"])
    assert ("no link prediction" in notes) == (not alike)


def test_that_is_known_to_who_goes_on_from_a_checkpoint(tmp_path, monkeypatch):
    made = papers(tmp_path, alike=False)
    distiller = started(made)
    distiller.train(30)
    distiller.save_checkpoint(tmp_path / "c.safetensors")
    resumed = Distiller.of(*made, SETTINGS, 1, LABEL, 1)
    monkeypatch.setattr(of_all_models, "links_are_in_the_way", None)  # nobody asks again
    resumed.resume(tmp_path / "c.safetensors")
    assert resumed.about()["notes"] == distiller.about()["notes"]
    for one in (distiller, resumed):
        one.train(SETTINGS.steps)
        one.finish()
        train(one, "mlp")
    assert equal(distiller, resumed)


def test_a_label_that_links_do_not_tell_is_told_as_well_as_without_them(tmp_path):
    told = []
    for name, weight in (("asked", 1.0), ("none", 0.0)):
        made = papers(tmp_path / name, alike=False)
        settings = SETTINGS.model_copy(update={"link_weight": weight})
        figures = trained(made, LABEL, settings).evaluate()
        told.append({(f.model, f.value) for f in figures if f.task == "label"})
    assert told[0] == told[1] != set()
