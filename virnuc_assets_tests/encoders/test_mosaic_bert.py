import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from virnuc_assets.encoders.mosaic_bert import MosaicBert, MosaicBertConfig, alibi_slopes, load_mosaic_bert


def test_slopes_of_a_power_of_two_are_a_geometric_series() -> None:
    assert alibi_slopes(8) == pytest.approx([1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256])


def test_slopes_of_twelve_heads_are_those_of_eight_and_every_other_of_sixteen() -> None:
    # The published values of attention_with_linear_biases for 12 heads.
    assert alibi_slopes(12) == pytest.approx([2.0**-i for i in range(1, 9)] + [2.0 ** -(i + 0.5) for i in range(4)])


def _norm(x: Tensor, weights: dict[str, Tensor], name: str, eps: float) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + eps) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _attention(x: Tensor, weights: dict[str, Tensor], at: str, heads: int) -> Tensor:
    length, d = x.shape
    size = d // heads
    qkv = x @ weights[f"{at}.self.Wqkv.weight"].T + weights[f"{at}.self.Wqkv.bias"]
    out = torch.empty(length, d, dtype=x.dtype)
    for head, slope in enumerate(alibi_slopes(heads)):
        columns = slice(head * size, (head + 1) * size)
        q, k, v = (qkv[:, part * d : (part + 1) * d][:, columns] for part in range(3))
        scores = torch.empty(length, length, dtype=x.dtype)
        for i in range(length):
            for j in range(length):
                scores[i, j] = (q[i] * k[j]).sum() / math.sqrt(size) - slope * abs(i - j)
        odds = torch.exp(scores - scores.max(dim=1, keepdim=True).values)
        out[:, columns] = (odds / odds.sum(dim=1, keepdim=True)) @ v
    return out


def _stated_plainly(tokens: list[int], weights: dict[str, Tensor], config: MosaicBertConfig) -> Tensor:
    eps = config.layer_norm_eps
    x = weights["embeddings.word_embeddings.weight"][tokens] + weights["embeddings.token_type_embeddings.weight"][0]
    x = _norm(x, weights, "embeddings.LayerNorm", eps)
    for layer in range(config.num_hidden_layers):
        at = f"encoder.layer.{layer}.attention"
        mixed = _attention(x, weights, at, config.num_attention_heads)
        mixed = mixed @ weights[f"{at}.output.dense.weight"].T + weights[f"{at}.output.dense.bias"]
        x = _norm(mixed + x, weights, f"{at}.output.LayerNorm", eps)
        at = f"encoder.layer.{layer}.mlp"
        both = x @ weights[f"{at}.gated_layers.weight"].T
        gate, value = both[:, : config.intermediate_size], both[:, config.intermediate_size :]
        gelu = gate * 0.5 * (1 + torch.erf(gate / math.sqrt(2)))
        fed = (gelu * value) @ weights[f"{at}.wo.weight"].T + weights[f"{at}.wo.bias"]
        x = _norm(fed + x, weights, f"{at}.layernorm", eps)
    return x


def test_the_module_is_the_architecture_stated_plainly(checkpoints: Path) -> None:
    folder = checkpoints / "dnabert_s_miniature"
    model, tokenization = load_mosaic_bert(folder)
    weights = {name: tensor.double() for name, tensor in load_file(folder / "model.safetensors").items()}
    config = MosaicBertConfig(
        weights["embeddings.word_embeddings.weight"].shape[0], 2, model.dim, 4 * model.dim, 2, 6, 1e-12
    )
    tokens = tokenization(["ACGTTGCATTTGACCATGCAANNGT"])[0].tolist()
    with torch.inference_mode():
        found = model.eval()(torch.tensor([tokens, tokens]))
    expected = _stated_plainly(tokens, weights, config)
    assert (found.double() - expected).abs().max() < 1e-5


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
