import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from fedhealth.errors import ModelError
from fedhealth.models.encoders.base import compute_fingerprint
from fedhealth.models.encoders.ngrams import NgramEncoder
from fedhealth.models.encoders.text import TextEncoder, hash_words
from fedhealth.models.lora import LoraSettings, find_targets
from tests.tiny_encoders import TEXT, save_image_encoder, save_text_encoder, save_tokenizer

NOTES = ["Better today", "worse, oxygen given!", ""]


def small(**changes):
    torch.manual_seed(0)
    return TextEncoder(**{"hidden": 8, "buckets": 50, "max_length": 8} | changes).eval()


def test_words_are_hashed_alike_everywhere_and_cut_to_length():
    ids = hash_words(["Worse TODAY", "worse", "a b c d e"], 100, 3)
    assert ids.shape == (3, 3)
    assert ids.dtype == np.int64
    assert ids[0, 0] == ids[1, 0] == hash_words(["worse"], 100, 9)[0, 0]
    assert ids[1, 1:].tolist() == [0, 0]


@given(st.lists(st.text(max_size=30), min_size=1, max_size=5), st.integers(2, 1000), st.integers(1, 10))
def test_ids_fit_the_vocabulary(texts, buckets, length):
    ids = hash_words(texts, buckets, length)
    assert ids.shape[0] == len(texts)
    assert 1 <= ids.shape[1] <= length
    assert ((ids >= 0) & (ids < buckets)).all()


@pytest.mark.parametrize("layers", [0, 1])
def test_padding_and_company_do_not_change_a_text(layers):
    encoder = small(layers=layers)
    together = encoder(torch.from_numpy(encoder.tokenize(NOTES)))
    assert together.shape == (3, encoder.width) == (3, 8)
    assert torch.isfinite(together).all()
    for row, note in enumerate(NOTES[:2]):
        alone = encoder(torch.from_numpy(encoder.tokenize([note])))
        torch.testing.assert_close(alone[0], together[row])


def test_a_text_longer_than_the_encoder_is_cut():
    encoder = small(max_length=4)
    assert encoder.tokenize(["a b c d e f g"]).shape == (1, 4)


def test_a_frozen_encoder_without_weights_is_refused():
    with pytest.raises(ModelError, match="frozen encoder without weights"):
        small(train="none")


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ModelError, match="hidden=8 is not a multiple of heads=3"):
        small(heads=3)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_pretrained_encoder_gives_the_mean_of_its_own_hidden_states(tmp_path, encoder_saver, kind, dtype):
    folder = str(encoder_saver(tmp_path, kind, dtype))
    encoder = TextEncoder(folder, train="none", max_length=16).eval()
    ids = torch.from_numpy(encoder.tokenize(["Better today oxygen", "worse"]))
    assert encoder.pad == (1 if kind == "roberta" else 0)
    mask = ids != encoder.pad
    assert mask.sum(dim=1).tolist() == [3, 1]
    hidden = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()(ids, mask.long()).last_hidden_state
    expected = torch.stack([row[:length].mean(dim=0) for row, length in zip(hidden, (3, 1), strict=True)])
    torch.testing.assert_close(encoder(ids), expected)
    assert next(encoder.parameters()).dtype is torch.float32
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not any("pooler" in name for name, _ in encoder.named_parameters())


def test_what_cannot_be_loaded_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"model\.text\.pretrained: there is no folder"):
        TextEncoder(str(tmp_path / "nothing"))


def test_pickled_weights_are_refused(tmp_path, encoder_saver):
    folder = encoder_saver(tmp_path)
    weights = folder / "model.safetensors"
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot load"):
        TextEncoder(str(folder))


def test_weights_with_holes_are_refused(tmp_path, encoder_saver):
    folder = encoder_saver(tmp_path)
    state = load_file(folder / "model.safetensors")
    del state["embeddings.word_embeddings.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of the encoder's weights, such as embeddings\.word_embeddings"):
        TextEncoder(str(folder))


def test_more_tokens_than_positions_are_refused(tmp_path, encoder_saver):
    folder = str(encoder_saver(tmp_path, "roberta"))
    TextEncoder(folder, max_length=128)
    with pytest.raises(ModelError, match="reads 128 tokens at most"):
        TextEncoder(folder, max_length=129)


def test_the_identity_changes_with_weights_and_settings():
    assert compute_fingerprint(small()) == compute_fingerprint(small())
    changed = small()
    with torch.no_grad():
        next(changed.parameters()).add_(1e-3)
    assert (
        len({compute_fingerprint(small()), compute_fingerprint(changed), compute_fingerprint(small(max_length=4))}) == 3
    )


def test_a_word_without_an_embedding_counts_as_padding(tmp_path, encoder_saver):
    """It would be an index error that tells whether the site has a text with this word."""
    folder = encoder_saver(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["tumour"])
    tokenizer.save_pretrained(folder)
    encoder = TextEncoder(str(folder), max_length=16).eval()
    ids = encoder.tokenize(["better tumour", "better"])
    assert ids[0, 1] == encoder.pad
    with torch.inference_mode():
        assert encoder(torch.from_numpy(ids)).isfinite().all()


def test_an_encoder_with_a_decoder_is_refused_by_name(tmp_path, encoder_saver):
    from transformers import BartConfig, BartModel

    folder = encoder_saver(tmp_path)  # its tokenizer
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    BartModel(BartConfig(vocab_size=40, d_model=8, pad_token_id=0, **sizes, **heads)).save_pretrained(folder)
    with pytest.raises(ModelError, match="is an encoder with a decoder"):
        TextEncoder(str(folder), max_length=16)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    save_text_encoder(tmp_path, "bert")
    for path in tmp_path.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match=r"no tokenizer|cannot load") as caught:
        TextEncoder(str(tmp_path), train="none", max_length=16)
    assert "tokenizer" in caught.value.advice


def test_of_a_model_with_a_decoder_only_the_encoder_is_loaded(tmp_path):
    encoder = TextEncoder(str(save_text_encoder(tmp_path, "t5")), train="none", max_length=16)
    assert not any("decoder" in name for name in encoder.state_dict())


def test_a_decoder_pads_with_its_end_token(tmp_path):
    encoder = TextEncoder(str(save_text_encoder(tmp_path, "gpt2")), train="none", max_length=16).eval()
    alone, together = (torch.from_numpy(encoder.tokenize(texts)) for texts in (["worse"], ["worse", "better today"]))
    torch.testing.assert_close(encoder(together)[0], encoder(alone)[0])


def test_an_encoder_of_images_is_no_text_encoder(tmp_path):
    save_image_encoder(tmp_path, "vit")
    save_tokenizer(tmp_path)
    with pytest.raises(ModelError, match="does not read text"):
        TextEncoder(str(tmp_path), train="none")


def test_adapters_find_their_layers_in_every_architecture(tmp_path):
    for kind in TEXT:
        folder = save_text_encoder(tmp_path / kind, kind)
        encoder = TextEncoder(str(folder), train="none", max_length=16, lora=LoraSettings(2))
        assert any(".lora_A." in name for name, p in encoder.named_parameters() if p.requires_grad), kind
    with pytest.raises(ModelError, match="no attention with a usual name"):
        find_targets(torch.nn.Sequential(torch.nn.Linear(2, 2)), "text")


def test_ngrams_need_no_word_list_and_tell_word_order(tmp_path):
    encoder = NgramEncoder(width=256)
    first, again, other, empty = encoder.tokenize(["no fever today", "No FEVER today", "fever, no today", ""])
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)  # the pairs differ
    assert not empty.any()
    assert np.square(first).sum() == pytest.approx(256, rel=1e-4)
    assert encoder(torch.from_numpy(first)).shape == (256,)
    assert not list(encoder.parameters())


@given(st.lists(st.text(max_size=30), min_size=1, max_size=5))
def test_the_features_of_a_text_do_not_depend_on_the_others(texts):
    encoder = NgramEncoder(width=32, longest=3)
    together = encoder.tokenize(texts)
    assert np.isfinite(together).all()
    assert all(np.array_equal(encoder.tokenize([text])[0], row) for text, row in zip(texts, together, strict=True))
