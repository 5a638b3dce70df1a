"""Every language model of transformers is exact on a packed row of text, or rejected by name.

It takes minutes, so ``TREEPACK_CASES=10`` runs it; with ``-s`` it prints what became of each.
"""

import numpy as np
import pytest
import torch
import treepack as tp
from helpers.cases import FACTOR
from helpers.zoo import classes
from treepack.errors import AttentionError
from treepack.hf import compared

pytestmark = pytest.mark.filterwarnings("ignore")

slow = pytest.mark.skipif(FACTOR < 10, reason="takes minutes; TREEPACK_CASES=10 runs it")


@slow
@pytest.mark.timeout(3600)
def test_every_class_is_exact_on_text_or_rejected_by_name(capsys):
    with capsys.disabled():
        table = dict(classes.verdicts())
    assert not {name for name, (verdict, *_) in table.items() if verdict == "WRONG"}
    reasons = {name: why for name, (verdict, why, _) in table.items() if verdict == "rejected"}
    assert not {name for name, reason in reasons.items() if name not in reason}
    exact = {name: text for name, (verdict, _, text) in table.items() if verdict == "exact"}
    # No third kind.
    assert table.keys() == exact.keys() | reasons.keys() | classes.families().keys()
    assert exact | classes.families() == compared.compared()
    assert len(exact) > 140


@slow
@pytest.mark.timeout(3600)
def test_what_prepare_takes_is_in_the_table_and_what_it_rejects_has_a_reason():
    taken, reasons = set(), {}
    for name, kind in classes.classes():
        try:
            model = classes.on_meta(name, kind)
        except Exception:
            # No usable default configuration.
            continue
        try:
            tp.hf.prepare(model)
            taken.add(name)
        except AttentionError as error:
            reasons[name] = str(error)
    assert taken <= compared.compared().keys()
    assert len(taken) > 140
    assert not {name for name, reason in reasons.items() if name not in reason}
    unknown = {name for name, reason in reasons.items() if "unchecked=True" in reason}
    assert not unknown & compared.compared().keys()


@slow
@pytest.mark.timeout(3600)
def test_no_class_that_is_not_prepared_takes_a_packed_batch(capsys):
    batch = tp.collate([tp.MessageTree(np.arange(3, 12), labels=np.arange(3, 12))])
    moved = {n: v.to("cpu") if hasattr(v, "to") else v for n, v in batch.items()}
    took, tried = [], 0
    for name, kind in classes.classes():
        try:
            model = classes.build(name, kind)
            model(input_ids=batch["input_ids"], use_cache=False)
        except Exception:
            continue
        tried += 1
        try:
            with torch.no_grad():
                model(**moved)
            took.append(name)
        except Exception as error:
            with capsys.disabled():
                print(f"{name:46}", f"{type(error).__name__}: {error}"[:110], flush=True)
    assert tried > 120
    assert took == []
