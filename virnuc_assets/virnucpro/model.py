"""VirNucPro's `300_model.pth` and `500_model.pth` as our classifier (upstream: `MLPClassifier` in train.py).

The file is a pickle of the whole module. Its tensors are read, its classes stay names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from virnuc_assets.classifier.checkpoint import ClassifierDescription, Mlp, Origin, shown_pair
from virnuc_assets.encoders.registry import registered
from virnuc_assets.errors import VirnucError
from virnuc_assets.virnucpro.torch_files import MODEL_CLASS, ImportRefused, PickledModule, TorchFile

VIRNUCPRO = "VirNucPro"
_LAYERS = {"hidden_layer": "Linear", "bn1": "BatchNorm1d", "dropout": "Dropout", "output_layer": "Linear"}


def imported_fingerprint(encoder: str, side: str, dim: int) -> dict[str, str]:
    """What is known of an encoder whose vectors VirNucPro made; precision and library versions are not."""
    spec = registered(encoder)
    if spec.alphabet != side:
        raise VirnucError(f"encoder {encoder} reads {spec.alphabet}; expected one that reads {side}")
    return {"encoder": spec.name, "alphabet": spec.alphabet, "dim": str(dim), "origin": VIRNUCPRO}


def model_in(file: TorchFile) -> Mlp:
    """The classifier of a file, in eval mode on the CPU; another module than VirNucPro's is refused."""
    made = file.content
    if not isinstance(made, PickledModule) or made.name != MODEL_CLASS:
        found = made.name if isinstance(made, PickledModule) else f"a {type(made).__name__}"
        raise ImportRefused(f"{file.path}: expected a whole module of class {MODEL_CLASS}, found {found}")
    layers = _part(file, "the model", made, "_modules")
    kinds = {name: getattr(layer, "name", type(layer).__name__).rpartition(".")[2] for name, layer in layers.items()}
    if kinds != _LAYERS:  # one without parameters would be missed by the comparison of tensors
        raise ImportRefused(f"{file.path}: another architecture: expected layers {_LAYERS}, found {str(kinds)[:500]}")
    model = _model_of(file, _tensors(file, made, layers))
    if (eps := layers["bn1"].state.get("eps")) != model.bn1.eps:
        raise ImportRefused(f"{file.path}: bn1 has eps {eps}, VirNucPro's has {model.bn1.eps}")
    return model.eval()


def _tensors(file: TorchFile, made: PickledModule, layers: Mapping[str, Any]) -> dict[str, Tensor]:
    tensors = _part(file, "the model", made, "_parameters") | _part(file, "the model", made, "_buffers")
    for name, layer in layers.items():
        for part in ("_parameters", "_buffers", "_modules"):
            tensors |= {f"{name}.{key}": value for key, value in _part(file, name, layer, part).items()}
    # None: a layer without bias, missed by the comparison with ours.
    tensors = {name: value for name, value in tensors.items() if value is not None}
    if others := [name for name, value in tensors.items() if not isinstance(value, Tensor)]:
        raise ImportRefused(f"{file.path}: another architecture: expected tensors in its layers, found {others}")
    if (claimed := sum(t.numel() * t.element_size() for t in tensors.values())) > file.size:  # a stride of 0
        raise ImportRefused(f"{file.path}: {claimed} bytes of tensors claimed by a file of {file.size} bytes")
    return tensors


def _model_of(file: TorchFile, tensors: Mapping[str, Tensor]) -> Mlp:
    """A classifier as wide as the file's tensors, holding them."""
    weight = tensors.get("hidden_layer.weight")
    if weight is None or weight.dim() != 2 or not weight.numel():
        raise ImportRefused(f"{file.path}: another architecture: hidden_layer has no weights of two dims")
    if bad := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise ImportRefused(f"{file.path}: values that are not finite in {', '.join(bad)}")
    model = Mlp(weight.shape[1], weight.shape[0], dropout=0.0)
    kept = model.state_dict()
    if cast := {name: t.dtype for name, t in tensors.items() if name in kept and t.dtype != kept[name].dtype}:
        raise ImportRefused(f"{file.path}: not the tensors of VirNucPro's classifier, whose dtypes differ: {cast}")
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ImportRefused(f"{file.path}: not the tensors of VirNucPro's classifier: {error}") from error
    return model


def describe_model(
    file: TorchFile, model: Mlp, encoders: Mapping[str, Mapping[str, str]], dims: Mapping[str, int], chunk_length: int
) -> ClassifierDescription:
    """What is written next to the weights of an imported classifier; the file does not say its chunk length.

    Encoders and dims, by side, are those of the features that it is to score, whose width must be the model's.
    """
    pair = shown_pair(encoders, dims)
    if model.dim != sum(dims.values()):
        raise ImportRefused(
            f"{file.path}: reads {model.dim} columns, the features are of {pair}. VirNucPro's own models read "
            "dnabert_s and esm2_3b. Give features of the encoders that it was trained on, or a model trained on these."
        )
    return ClassifierDescription(
        variant=VIRNUCPRO.lower(),
        encoders={"dna": dict(encoders["dna"]), "protein": dict(encoders["protein"])},
        dna_dim=dims["dna"],
        protein_dim=dims["protein"],
        merged_dim=model.dim,
        chunk_length=chunk_length,
        origin=Origin(made_by=VIRNUCPRO, file=file.path.name, sha256=file.sha256),
    )


def _part(file: TorchFile, name: str, module: object, part: str) -> dict[str, Any]:
    state = module.state if isinstance(module, PickledModule) else None
    found = state.get(part) if isinstance(state, dict) else None
    if not isinstance(found, dict) or any(not isinstance(key, str) for key in found):
        raise ImportRefused(f"{file.path}: {name[:80]} has no {part}, as every torch module has")
    return found
