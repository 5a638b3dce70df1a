"""Which family supports a processor."""

import copy
import pickle

import pytest
from helpers.tiny_models import (
    FAMILIES,
    PROCESSORS,
    byte_tokenizer,
    find,
    media,
    molmo2_processor,
    photo,
)
from treepack import errors, families


@FAMILIES
def test_a_family_is_found_by_the_class_of_the_processor_or_by_name(name):
    processor = PROCESSORS[name]()
    assert families.find(processor).name == name
    assert families.find(processor, family=name).name == name

    class Own(type(processor)):
        pass

    own = copy.copy(processor)
    own.__class__ = Own
    assert families.find(own).name == name


def test_an_unknown_processor_is_told_who_is_served():
    with pytest.raises(errors.FamilyError, match=r"SimpleNamespace.*molmo2.*qwen3_vl"):
        families.find(__import__("types").SimpleNamespace())
    with pytest.raises(errors.FamilyError, match=r"'gemma9'; there are \[.*'molmo2', .*'qwen3_vl'"):
        families.find(molmo2_processor(), family="gemma9")
    with pytest.raises(errors.FamilyError, match=r"ChatFormat, got str"):
        families.find(molmo2_processor(), chat="chatml")


def test_a_new_family_is_one_new_file(tmp_path, monkeypatch):
    (tmp_path / "new.py").write_text(
        "from treepack.families.molmo2 import Molmo2\n"
        "class New(Molmo2):\n"
        "    name, processors = 'new', ('NewProcessor',)\n"
        "FAMILY = New\n"
    )
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    processor = copy.copy(molmo2_processor())
    processor.__class__ = type("NewProcessor", (type(processor),), {})
    assert families.find(processor, family="new").name == "new"
    assert {"molmo2", "new", "qwen3_vl"} < set(families.families())


def test_a_tokenizer_without_the_image_tokens_is_rejected():
    processor = copy.copy(molmo2_processor())
    processor.tokenizer = byte_tokenizer()
    with pytest.raises(errors.FamilyError, match="'<im_patch>'"):
        families.find(processor)


@FAMILIES
def test_a_family_can_be_sent_to_a_worker(name):
    family = find(name)
    copied = pickle.loads(pickle.dumps(family))
    sample = media(photo(1))
    assert copied.load(sample).tokens.tolist() == family.load(sample).tokens.tolist()


def test_conversations_are_what_a_family_takes():
    with pytest.raises(errors.DataError, match="Conversations or conversation records, got str"):
        find("molmo2").measure("cat.jpg")
