"""Pretrained text models beside the n-grams: read from a folder, frozen or learning."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from isohop.errors import IsohopError
from isohop.giant.documents import FIELD_END, document_fields
from isohop.giant.encoder import Encoder, encode_all, load_encoder
from isohop.giant.features import Features, extract_features
from isohop.giant.inference import encode_rows
from isohop.giant.model_folder import contents_of, model_problem, packaged_minilm
from isohop.giant.settings import FeatureSettings
from isohop.giant.text_matrix import Vocabulary
from isohop.giant.text_model import TOKENS_AT_ONCE, TOKENS_ON_GPU, TextModel, batches, fair_shares
from isohop.giant.training import Trainer
from isohop.graph import EdgeType, Graph, GraphManifest, Holdout, NodeType, hold_out
from isohop.graph.label import read_label
from tests.worlds import library

WORDS = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "book", "of", "the", "sea"),
    *("ships", "stars", "planets", "bread"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small BERT with random weights, as save_pretrained() writes it."""
    from transformers import BertConfig, BertModel, BertTokenizer

    made = tmp_path_factory.mktemp("model")
    (made / "vocab.txt").write_text("\n".join(WORDS), "utf-8")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    BertModel(config).save_pretrained(made, safe_serialization=True)
    BertTokenizer(str(made / "vocab.txt")).save_pretrained(made)
    return made


def settings(folder: Path, **more: object) -> FeatureSettings:
    small = {
        "dimensions": 16,
        "multi_scale": True,
        "levels": (4, 16),
        "epochs": 1,
        "steps": 40,
        "batch": 64,
    }
    return FeatureSettings(encoder="transformers", model=folder, **small | more)


def texts(*values: str | None) -> pa.Array:
    return pa.array(values, pa.large_string())


def test_a_document_is_read_the_same_whatever_is_read_with_it(folder):
    model = TextModel(folder, 32)
    alone = model(model.tokenize(texts("the sea")))
    among = model(model.tokenize(texts("a", "the sea", None, "ships of the sea and stars " * 9)))
    assert torch.allclose(alone[0], among[1], atol=0.02)  # bfloat16 where the machine has it
    assert not torch.allclose(among[0], among[1], atol=0.02)
    assert not among[2].any()


def test_shapes_as_an_accelerator_has_them_give_the_same_vectors_and_gradients(folder):
    """And no row of them attends to nothing: of that its gradient would be no number."""
    found = []

    def looks(_: object, __: object, given: dict[str, torch.Tensor]) -> None:
        assert given["attention_mask"].any(1).all()

    for fixed in (False, True):
        model = TextModel(folder, 32)
        model.fixed, model.mixed = fixed, False
        model.model.register_forward_pre_hook(looks, with_kwargs=True)
        model.tune(True)
        model.eval()  # without dropout
        told = model(model.tokenize(texts("a", "the sea", None, "ships of the sea and stars " * 9)))
        told.square().sum().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert gradients
        found.append([told.detach(), *gradients])
    for tight, padded in zip(*found, strict=True):
        torch.testing.assert_close(padded, tight, atol=1e-4, rtol=1e-3)


def test_a_text_of_new_words_is_what_the_text_model_makes_of_it_and_not_missing(folder):
    documents = texts("the sea", "the stars", None)
    nothing = Vocabulary(np.zeros(0, np.int64), np.zeros(0, np.float32), 100)
    encoder = Encoder(nothing, ("a",), 16, TextModel(folder, 32)).eval()
    nn.init.normal_(encoder.project.weight)
    for prepared in (encoder.prepare(documents), encoder.read(encoder.prepare(documents))):
        with torch.no_grad():
            sea, stars, missing = encoder.encode(prepared, np.zeros(3, np.int64))
        for one, other in ((sea, stars), (sea, missing), (stars, missing)):
            assert not torch.allclose(one, other, atol=0.05)


def test_atoms_are_not_for_the_text_model(folder):
    model = TextModel(folder, 32)
    with_atoms = model.tokenize(texts(f"size=u{FIELD_END}the sea{FIELD_END}born≈2e3 born≈18e2"))
    assert np.array_equal(with_atoms.ids, model.tokenize(texts("the sea")).ids)
    assert len(model.tokenize(texts("size=u")).ids) == 0


def test_of_a_long_document_the_longest_fields_are_cut(folder):
    model = TextModel(folder, 12)
    tokens = model.tokenize(texts(f"bread{FIELD_END}{'sea ' * 50}{FIELD_END}stars"))
    words = [WORDS[i] for i in tokens.ids]
    assert words == ["[CLS]", "bread", *["sea"] * 8, "stars", "[SEP]"]


@given(st.lists(st.lists(st.integers(0, 30), max_size=5), max_size=6), st.integers(1, 40))
def test_fair_shares(fields: list[list[int]], room: int):
    owner = np.repeat(np.arange(len(fields)), [len(sizes) for sizes in fields])
    sizes = np.array([size for each in fields for size in each], np.int64)
    kept = fair_shares(sizes, owner, len(fields), room)
    assert ((kept >= 0) & (kept <= sizes)).all()
    for document in range(len(fields)):
        mine, had = kept[owner == document], sizes[owner == document]
        assert mine.sum() <= room
        if had.sum() <= room:
            assert np.array_equal(mine, had)
        else:  # none is cut below another, and no room is left for one more token each
            cut = mine < had
            assert (mine[cut] == mine.max()).all()
            assert mine.sum() + cut.sum() > room


@given(st.lists(st.integers(0, 128), max_size=200), st.booleans())
def test_batches_hold_every_document_once_and_few_tokens(sizes: list[int], fixed: bool):
    found = list(batches(np.array(sizes, np.int64), fixed))
    most = TOKENS_ON_GPU if fixed else TOKENS_AT_ONCE
    documents = np.concatenate([np.empty(0, np.int64), *(rows for rows, _ in found)])
    assert sorted(documents) == [i for i, size in enumerate(sizes) if size]
    for rows, (count, length) in found:
        assert len(rows) <= count
        assert max(sizes[i] for i in rows) <= length
        assert count * length <= max(most, length)
        if fixed:
            assert count == most // length


def anew(folder: Path, graph: Graph) -> np.ndarray:
    """Features of books, by the encoder that lies in a folder."""
    fields = document_fields(graph, "book", None)
    return encode_rows(load_encoder(folder), "book", graph.nodes("book"), fields)


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    return (one * other).sum(1).min() > 0.995


@pytest.mark.parametrize("tuning", [0, 6])
def test_features_with_a_text_model_are_made_saved_and_found_again(ray, folder, tmp_path, tuning):
    graph = library(tmp_path / "g")
    asked = settings(folder, tuning_steps=tuning, tuning_batch=16)
    manifest = extract_features(graph.path, tmp_path / "f", asked, 1)
    assert manifest.curves["loss"][-1][0] == 40 + tuning
    matrix = Features.open(tmp_path / "f").matrix("book")
    assert np.allclose(np.linalg.norm(matrix, axis=1), 1, atol=1e-5)
    # Not what another process trains anew: this world is so even that some of its eigenvectors are
    # as good as any turned ones, and rounding decides between them.
    assert alike(matrix, anew(tmp_path / "f", graph))
    # Frozen vectors are kept in 16 bits while training, and read anew afterwards.
    trainer = Trainer(graph, asked, 1, None, 1)
    trainer.train(trainer.steps)
    (tmp_path / "e").mkdir()
    trainer.encoder.save(tmp_path / "e")
    assert alike(trainer.encode()[trainer.index.rows("book")], anew(tmp_path / "e", graph))
    assert contents_of(tmp_path / "f" / "text_model")["config.json"]


def test_a_text_model_learns_in_the_last_steps_alone(folder, tmp_path):
    graph = library(tmp_path / "g")
    trainer = Trainer(graph, settings(folder, tuning_steps=5), 1, None, 1)

    def weights() -> np.ndarray:
        named = dict(trainer.encoder.text_model.model.named_parameters())
        return named["embeddings.word_embeddings.weight"].detach().cpu().numpy().copy()

    begun = weights()
    trainer.train(40)
    assert np.array_equal(weights(), begun)
    trainer.train(5)
    assert not np.array_equal(weights(), begun)


def test_training_of_a_text_model_goes_on_from_a_checkpoint(folder, tmp_path):
    graph = library(tmp_path / "g")
    asked = settings(folder, tuning_steps=20, tuning_batch=16)
    for until in (30, 50, 60):
        whole = Trainer(graph, asked, 1, None, 1)
        whole.train(until)
        whole.save(tmp_path / "training.safetensors")
        losses = whole.train(60)
        again = Trainer(graph, asked, 1, None, 1)
        again.resume(tmp_path / "training.safetensors")
        assert again.train(60) == losses
        assert np.array_equal(again.encode(), whole.encode())


@pytest.mark.parametrize("count", [0, 3])
def test_a_text_model_may_have_nothing_to_read(folder, tmp_path, count):
    """Nodes that are known by numbers, or are not there."""
    node = NodeType(name="part", key=("id",), count=count)
    fits = EdgeType(source="part", role="fits", target="part", count=count)
    ids = np.arange(count)
    graph = Graph.write(
        tmp_path / "g",
        GraphManifest(name="g", certificate="0" * 32, node_types=(node,), edge_types=(fits,)),
        {"part": pa.table({"node_id": ids, "id": ids})},
        {fits.name: pa.table({"src": ids, "dst": (ids + 1) % 3, "count": ids})},
    )
    trainer = Trainer(graph, settings(folder), 1, None, 1)
    trainer.train(trainer.steps)
    assert trainer.encode().shape == (count, 16)
    assert np.isfinite(trainer.encode()).all()


@pytest.mark.parametrize("labelled", [False, True])
def test_what_training_is_compared_with_has_learned_nothing(folder, tmp_path, labelled):
    graph = library(tmp_path / "g")
    asked = settings(folder, tuning_steps=5, tuning_batch=16)
    label = "book.topic"
    told = read_label(graph, label, hold_out(graph, 1, label)) if labelled else None
    trainer = Trainer(graph, asked, 1, label, 1, told=told)
    before = trainer.untrained()
    trainer.train(trainer.steps)
    assert np.array_equal(before, trainer.untrained())


def test_a_loss_that_the_text_model_made_is_told_as_that(folder, tmp_path):
    asked = settings(folder, tuning_steps=20, tuning_batch=16, tuning_rate=1e38)
    trainer = Trainer(library(tmp_path / "g"), asked, 1, None, 1)
    with pytest.raises(IsohopError, match=r"Lower 'features\.tuning_rate'"):
        trainer.train(trainer.steps)


@pytest.mark.parametrize("more", [0, 10])
def test_a_label_is_learned_once_a_text_model_has_learned_and_from_a_checkpoint_too(
    folder, tmp_path, more
):
    graph = library(tmp_path / "g")
    asked = settings(folder, tuning_steps=5, tuning_batch=16)
    told = read_label(graph, "book.topic", hold_out(graph, 1, "book.topic"))
    whole, again = (Trainer(graph, asked, 1, "book.topic", 1, told=told) for _ in range(2))
    whole.train(45)
    tuned = {name: one.clone() for name, one in whole.encoder.text_model.state_dict().items()}
    whole.train(more)
    whole.save(tmp_path / "training.safetensors")
    losses = whole.train(whole.steps)
    assert all(torch.equal(tuned[n], v) for n, v in whole.encoder.text_model.state_dict().items())
    again.resume(tmp_path / "training.safetensors")
    assert again.train(again.steps) == losses
    assert np.array_equal(again.encode(), whole.encode())


def test_the_packaged_minilm_knows_the_language():
    model = TextModel(packaged_minilm(), 64)
    assert model.dimensions == 384
    said = model(model.tokenize(texts("a ship at sea", "the boat on the ocean", "bread recipes")))
    near = torch.nn.functional.normalize(said, dim=1)
    assert near[0] @ near[1] > near[0] @ near[2] + 0.2


def test_an_encoder_that_was_saved_is_the_same(folder, tmp_path):
    documents = texts("the sea", None, "stars and planets", "size=u")
    encoder = Encoder(
        Vocabulary.learn([documents], 100, 100), ("thing",), 8, TextModel(folder, 16)
    ).eval()
    encoder.read(encoder.prepare(documents))
    encoder.save(tmp_path)
    loaded = load_encoder(tmp_path)
    one, other = (
        encode_all(e, e.prepare(documents), np.zeros(4, np.int64)) for e in (encoder, loaded)
    )
    assert np.array_equal(one, other)


def test_folders_that_are_no_models_are_told_apart(folder, tmp_path):
    assert model_problem(folder) is None
    assert "not a folder" in str(model_problem(tmp_path / "none"))
    assert "config.json" in str(model_problem(tmp_path))
    (tmp_path / "config.json").write_text("{}", "utf-8")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    assert "safetensors" in str(model_problem(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    assert "tokenizer" in str(model_problem(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}", "utf-8")
    with pytest.raises(IsohopError, match="cannot be read as a text model"):
        TextModel(tmp_path, 8)


def test_no_code_of_a_folder_runs_whatever_the_terminal_says(folder, tmp_path, monkeypatch):
    """A student's bundle may come from anybody."""
    other = shutil.copytree(folder, tmp_path / "other")
    config = json.loads((other / "config.json").read_text("utf-8"))
    named = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    config |= {"model_type": "evil", "architectures": ["Model"], "auto_map": named}
    (other / "config.json").write_text(json.dumps(config), "utf-8")
    (other / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n", "utf-8")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(IsohopError, match="cannot be read as a text model"):
        TextModel(other, 8)
    assert not (tmp_path / "ran").exists()


def test_a_held_out_edge_cannot_reach_a_feature(folder, tmp_path):
    """A graph in which the held-out edges never were gives the same features, bit for bit."""
    graph = library(tmp_path / "g")
    held = hold_out(graph, 1)
    without = _without_held_out_edges(graph, held, tmp_path / "without")
    everything = hold_out(without, 1, validation=0, test=0, isolated=0)
    made = []
    for seen, holdout in ((graph, held), (without, everything)):
        trainer = Trainer(seen, settings(folder), 1, None, 1, holdout)
        trainer.train(trainer.steps)
        made.append(trainer.encode())
    assert np.array_equal(*made)


def _without_held_out_edges(graph: Graph, held: Holdout, out: Path) -> Graph:
    edges = {edge.name: graph.edges(edge.name) for edge in graph.edge_types}
    seen = {name: table.filter(pa.array(held.visible(name))) for name, table in edges.items()}
    types = [
        edge.model_copy(update={"count": seen[edge.name].num_rows}) for edge in graph.edge_types
    ]
    manifest = graph.manifest.model_copy(update={"edge_types": tuple(types)})
    nodes = {node.name: graph.nodes(node.name) for node in graph.node_types}
    return Graph.write(out, manifest, nodes, seen)
