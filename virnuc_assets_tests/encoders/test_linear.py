import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from virnuc_assets.encoders.esm import Esm, EsmConfig, SelfAttention
from virnuc_assets.encoders.linear import GeluLinear, PackedLinear, RoomLinear, pack
from virnuc_assets.encoders.machine import has_units
from virnuc_assets.encoders.tuning import reform


def esm(dtype: torch.dtype) -> Esm:
    torch.manual_seed(0)
    model = Esm(EsmConfig(33, 64, 3, 4, 256, 1e-5, "rotary", False, True)).eval().requires_grad_(False)
    nn.init.normal_(model.embeddings["word_embeddings"].weight)  # a table comes without values
    model = model.to(dtype)
    for module in model.modules():
        if isinstance(module, SelfAttention):
            module.fuse()
    return model


@torch.no_grad()
def test_gelu_is_the_exact_one() -> None:
    linear = GeluLinear(8, 8)
    x = torch.linspace(-4, 4, 80).view(10, 8)
    room = torch.empty(80)
    assert torch.equal(linear(x, room), F.gelu(F.linear(x, linear.weight, linear.bias), approximate="none"))
    assert (linear(x, room) - F.gelu(F.linear(x, linear.weight, linear.bias), approximate="tanh")).abs().max() > 1e-5


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 40), (3, 50, 40)])
def test_wide_products_are_the_plain_ones_and_lie_in_their_room(bias: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    linear, x, room = RoomLinear(40, 24, bias=bias), torch.randn(shape), torch.full((8000,), torch.nan)
    found = linear(x, room)
    assert torch.equal(found, F.linear(x, linear.weight, linear.bias))
    assert found.data_ptr() == room.data_ptr() and room[found.numel() :].isnan().all()


@torch.no_grad()
def test_packed_products_are_the_plain_ones_for_any_count_of_rows() -> None:
    torch.manual_seed(0)
    for linear in (nn.Linear(40, 24), nn.Linear(40, 24, bias=False), GeluLinear(40, 24)):
        packed = PackedLinear(linear)
        for shape in ((1, 40), (7, 40), (3, 50, 40)):
            x = torch.randn(shape)
            plain = linear(x, torch.empty(150 * 24)) if isinstance(linear, GeluLinear) else linear(x)
            torch.testing.assert_close(packed(x), plain, rtol=0, atol=1e-5)


@torch.no_grad()
def test_packed_layers_hold_no_plain_weights() -> None:
    model, plain = esm(torch.float32), esm(torch.float32)
    pack(model.layers())
    assert not [module for module in model.layers().modules() if isinstance(module, nn.Linear)]
    assert sum(isinstance(module, PackedLinear) for module in model.modules()) == 3 * 4
    norms = [name for name, _ in model.layers().named_parameters()]
    assert norms and all("LayerNorm" in name for name in norms)
    for shape in ((2, 30), (5, 11)):
        token_ids = torch.randint(4, 24, shape)
        torch.testing.assert_close(model(token_ids), plain(token_ids), rtol=0, atol=2e-5)


@pytest.mark.skipif(not has_units("bf16"), reason="this CPU has no bf16 units, and oneDNN packs none without")
@torch.no_grad()
def test_packed_layers_in_half_precision_give_the_plain_vectors() -> None:
    model, plain = esm(torch.bfloat16), esm(torch.bfloat16)
    reform(model.layers(), "packed")
    token_ids = torch.randint(4, 24, (4, 60))
    cosine = F.cosine_similarity(model(token_ids).float().mean(1), plain(token_ids).float().mean(1))
    assert cosine.min() >= 0.9999
