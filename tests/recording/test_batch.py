"""What a batch may be made of: each part in the nudge's order, and all of it in the types that it had."""

from collections import OrderedDict, UserDict, defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

from xent.recording import BadInput, Recorder
from xent.recording.batch import reordered, samples_of
from xent.recording.fingerprint import sample_marks

ORDER = torch.tensor([2, 0, 1])
X, WORDS = torch.arange(6).view(3, 2), ["a", "b", "c"]
IN_ORDER = X[ORDER].tolist()


@dataclass(frozen=True)
class Pair:
    x: Tensor
    name: str = "pair"


class Named(NamedTuple):
    x: Tensor
    words: list[str]


class Ragged(list[Any]):
    pass


class Encoding(UserDict[str, Any]):  # as Hugging Face's BatchEncoding
    def __init__(self, data: dict[str, Any], of: str = "") -> None:
        super().__init__(data)
        self.of = of


class Graph:
    def __init__(self, x: Tensor) -> None:
        self.x = x


class Known(Graph):
    pass


@pytest.mark.parametrize("make", [dict, OrderedDict, Encoding, lambda parts: defaultdict(list, parts)])
def test_a_mapping_keeps_its_type_and_what_has_no_samples_goes_through(make: Any) -> None:
    rest = {"id": "batch 7", "none": None, "weight": 0.5, "scale": torch.tensor(2.0), "count": np.int64(3)}
    batch = make({"x": X, "words": WORDS, "classes": ["cat", "dog"], **rest})
    moved = reordered(batch, 0, ORDER)
    assert type(moved) is type(batch) and moved is not batch and [*moved] == [*batch]
    assert moved["x"].tolist() == IN_ORDER and moved["words"] == ["c", "a", "b"] and moved["classes"] == ["cat", "dog"]
    assert all(moved[name] is part for name, part in rest.items())
    assert batch["x"] is X and samples_of(batch, 0) == 3


def test_dataclasses_named_tuples_lists_arrays_and_attributes_keep_their_types() -> None:
    batch = Encoding({"pair": Pair(X), "named": Named(X, WORDS), "array": X.numpy()}, of="these")
    batch["ragged"] = Ragged([X[0, :1], X[1], X[2]])
    batch["dataclasses"] = [Pair(row, str(i)) for i, row in enumerate(X)]
    batch["graphs"] = [Graph(row) for row in X]  # a sample may be anything
    moved = reordered(batch, 0, ORDER)
    assert moved.of == "these" and samples_of(batch, 0) == 3
    assert isinstance(moved["pair"], Pair) and moved["pair"].x.tolist() == IN_ORDER and moved["pair"].name == "pair"
    assert isinstance(moved["named"], Named) and moved["named"].x.tolist() == IN_ORDER
    assert moved["named"].words == ["c", "a", "b"]
    assert isinstance(moved["array"], np.ndarray) and moved["array"].tolist() == IN_ORDER
    assert type(moved["ragged"]) is Ragged and [len(row) for row in moved["ragged"]] == [2, 1, 2]
    assert [pair.name for pair in moved["dataclasses"]] == ["2", "0", "1"]
    assert [graph.x.tolist() for graph in moved["graphs"]] == IN_ORDER
    marks = sample_marks(batch, 0, 3)
    assert torch.equal(sample_marks(moved, 0, 3), marks[ORDER]) and marks.unique(dim=0).shape[0] == 3


def test_a_tuple_of_tensors_of_as_many_samples_is_no_list_of_samples() -> None:
    assert samples_of(((X, X), {}), 0) == 3 and reordered(((X, X), {}), 0, ORDER)[0][1].tolist() == IN_ORDER
    assert samples_of({"pair": (X[:, 0], X)}, 0) == 3
    assert samples_of(([X[0], X[1], X[2]], WORDS), 0) == 3, "a list is one, though its rows are as long as each other"


def test_a_batch_of_text_alone_has_samples() -> None:
    assert reordered(WORDS, 0, ORDER) == ["c", "a", "b"] and samples_of(WORDS, 0) == 3
    assert reordered((WORDS, [1, 2, 3]), 0, ORDER) == (["c", "a", "b"], [3, 1, 2])
    with pytest.raises(BadInput, match="tensors of 2 and 3 samples"):
        samples_of((WORDS, [1, 2]), 0)


def test_what_is_unknown_is_refused_by_name_and_what_is_registered_is_known() -> None:
    recorder = Recorder(steps=1, nudge=1)
    with pytest.raises(BadInput, match=r"got a Graph: expected .*register it, .*_node.Graph, flatten, unflatten.$"):
        recorder.reorder({"graph": Graph(X), "x": X})
    with pytest.raises(BadInput, match="tensors of 2 and 3 samples"):
        recorder.reorder(pack_sequence([X[0], X[1, :1]], enforce_sorted=False), X)
    torch.utils._pytree.register_pytree_node(Known, lambda g: ([g.x], None), lambda parts, _: Known(*parts))
    assert reordered({"graph": Known(X), "x": X}, 0, ORDER)["graph"].x.tolist() == IN_ORDER
