"""The words of an update come back as they were stored, with what they belong to."""

import numpy as np

from fedhealth.secagg.client.quantized_store import (
    QuantizedUpdate,
    delete_quantized,
    load_quantized,
    save_quantized,
)
from fedhealth.secagg.protocol.store import FileStore


def test_words_of_every_size_come_back_from_one_file(tmp_path):
    store, generator = FileStore(tmp_path), np.random.default_rng(0)
    kinds = {"image": np.uint16, "text": np.uint32, "statistics": np.uint64}
    words = {name: generator.integers(0, 2**16, 5).astype(kind) for name, kind in kinds.items()}
    assert load_quantized(store) is None
    save_quantized(store, QuantizedUpdate({"old": (bytes(32), 1, words["image"])}))
    save_quantized(store, QuantizedUpdate({name: (name.encode(), 7, each) for name, each in words.items()}))
    assert len(list(tmp_path.iterdir())) == 1
    found = load_quantized(store)
    assert list(found.segments) == list(words)
    for name, (digest, weight, loaded) in found.segments.items():
        assert (digest, weight, loaded.dtype) == (name.encode(), 7, words[name].dtype)
        assert np.array_equal(loaded, words[name])
    delete_quantized(store)
    assert load_quantized(store) is None
