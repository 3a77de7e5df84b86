import pytest

from virnuc_assets.encoders.mosaic_bert import MosaicBert, MosaicBertConfig, alibi_slopes


def test_slopes_of_a_power_of_two_are_a_geometric_series() -> None:
    assert alibi_slopes(8) == pytest.approx([1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256])


def test_slopes_of_twelve_heads_are_those_of_eight_and_every_other_of_sixteen() -> None:
    # The published values of attention_with_linear_biases for 12 heads.
    assert alibi_slopes(12) == pytest.approx([2.0**-i for i in range(1, 9)] + [2.0 ** -(i + 0.5) for i in range(4)])


def test_names_are_the_originals() -> None:
    names = set(MosaicBert(MosaicBertConfig(9, 2, 12, 24, 1, 2, 1e-12)).state_dict())
    layer = "encoder.layer.0"
    assert names == {
        "embeddings.word_embeddings.weight",
        "embeddings.token_type_embeddings.weight",
        *(f"embeddings.LayerNorm.{part}" for part in ("weight", "bias")),
        *(f"{layer}.attention.self.Wqkv.{part}" for part in ("weight", "bias")),
        *(f"{layer}.attention.output.dense.{part}" for part in ("weight", "bias")),
        *(f"{layer}.attention.output.LayerNorm.{part}" for part in ("weight", "bias")),
        f"{layer}.mlp.gated_layers.weight",
        *(f"{layer}.mlp.wo.{part}" for part in ("weight", "bias")),
        *(f"{layer}.mlp.layernorm.{part}" for part in ("weight", "bias")),
    }
