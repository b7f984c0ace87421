import dataclasses

import pytest

from kregkit.transfer import Similarity, recommend


@pytest.mark.parametrize(
    ("num_examples", "similarity", "strategy", "reasons"),
    [
        (245, 0.6, "linear head", ["little", "is high", "body stays frozen"]),
        (245, 0.59, "heads on several stages", ["little", "is low", "several stages", "augmentation"]),
        (250, 1, "fine-tune the top", ["enough", "is high", "top third"]),
        (250, 0, "fine-tune most", ["enough", "is low", "all layers"]),
    ],
)
def test_table_of_size_by_likeness(num_examples, similarity, strategy, reasons):
    plan = recommend(num_examples, 5, similarity)
    assert plan.strategy == strategy
    assert len(plan.reasons) == len(reasons)
    assert all(part in reason for part, reason in zip(reasons, plan.reasons))
    assert str(plan).splitlines() == [f"Plan: {strategy}", *(f"- {reason}" for reason in plan.reasons)]
    assert plan.augment == (strategy == "heads on several stages")


def test_the_more_data_and_the_less_alike_the_more_trains():
    table = [[recommend(size, 5, alike) for alike in ("similar", "different")] for size in (20, 2000)]
    assert table[0][0].train == 0 < table[1][0].train < table[1][1].train == 1
    assert table[0][1].stages > table[0][0].stages == 1 and table[0][1].reinitialize > 0
    assert all(0 < plan.learning_rate_factor < 1 and plan.head_epochs <= plan.epochs for row in table for plan in row)


def test_takes_what_measure_similarity_returns_and_cant_be_changed_by_accident():
    plan = recommend(20, 5, Similarity(0.9, {}, 0.2, "reason"))
    assert plan == recommend(20, 5, 0.9)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.train = 1.0
    assert dataclasses.replace(plan, epochs=3).epochs == 3


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0, 2, 0.5), "num_examples"),
        ((10, 1, 0.5), "num_classes"),
        ((10, 2, 1.5), "similarity"),
        ((10, 2, "alike"), "similarity"),
    ],
)
def test_refuses(arguments, text):
    with pytest.raises(ValueError, match=f"Received: {text}="):
        recommend(*arguments)
