"""`schemas/contracts/` says, for other programs, what the files between stages hold.

`python -m tests.test_contracts` writes them anew after a change of a model.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from isohop.embeddings.contract import MEASURES, EmbeddingsManifest
from isohop.graph import GraphManifest
from isohop.hops.plan import RESERVED_KEYS
from isohop.hops.schema_file import SchemaFile
from isohop.pipeline.pipeline_file import PipelineFile
from isohop.relational.ledger import Ledger

ROOT = Path(__file__).parents[1]
CONTRACTS = ROOT / "schemas" / "contracts"
FILES = sorted([*ROOT.glob("schemas/**/*.yaml"), *ROOT.glob("examples/*.yaml")])
MODELS = {
    "schema-file": SchemaFile,
    "pipeline-file": PipelineFile,
    "graph": GraphManifest,
    "ledger": Ledger,
    "embeddings": EmbeddingsManifest,
}


def written(name: str) -> str:
    return json.dumps(MODELS[name].model_json_schema(), indent=1, sort_keys=True) + "\n"


@pytest.mark.parametrize("name", MODELS)
def test_the_contract_on_file_is_that_of_the_code(name):
    assert (CONTRACTS / f"{name}.schema.json").read_text("utf-8") == written(name)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_is_written_by_hand_keeps_to_its_contract(file):
    """As an editor checks it that is told of the contract: what may be one or many, too."""
    held = yaml.safe_load(file.read_text("utf-8"))
    contract = "schema-file" if "tables" in held else "pipeline-file"
    read = json.loads((CONTRACTS / f"{contract}.schema.json").read_text("utf-8"))
    Draft202012Validator(read).validate(json.loads(json.dumps(held, default=str)))


def test_every_setting_of_a_pipeline_says_what_it_does():
    """The contract is where a person looks it up."""
    contract = PipelineFile.model_json_schema()
    parts = {"PipelineFile": contract, **contract["$defs"]}
    silent = [
        f"{part}.{name}"
        for part, of in parts.items()
        for name, setting in of.get("properties", {}).items()
        if "description" not in setting and "$ref" not in setting
    ]
    assert silent == []


def test_no_column_of_a_key_is_named_as_one_of_the_embeddings():
    """One would replace the other."""
    assert set(MEASURES) == RESERVED_KEYS


if __name__ == "__main__":
    for contract in MODELS:
        (CONTRACTS / f"{contract}.schema.json").write_text(written(contract), "utf-8")
