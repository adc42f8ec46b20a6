"""Checkpoints of a LongSpec drafter: a folder with config.json and model.safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from specdec.drafts.longspec.block import LongSpecBlock, Sizes
from specdec.errors import InvalidArgument, WeightsError
from specdec.files import replacing, write_text
from specdec.model.target import Target

KIND = "specdec-longspec"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
SHIPPED = Path(__file__).parent / "weights"  # a folder for each checkpoint that others may build on
_SAMPLES = 64  # embedding values that tell one target from another
_CLOSE = 0.9  # least cosine between samples of one target in two weight formats


@dataclass(frozen=True)
class Checkpoint:
    """A trained block: sizes, weights by name, the token of each head row, and who its target is.

    ids: `int64[V']`, or None where all tokens can be drafted.
    parts: sizes of further modules by name, such as what makes images small; their weights are
        named after them, and whoever needs the block alone leaves them out.
    base: a checkpoint that ships with specdec, whose weights are not stored again.
    """

    sizes: Sizes
    weights: dict[str, Tensor]
    ids: Tensor | None
    target: dict[str, Any]
    training: dict[str, Any]
    parts: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    base: str | None = None

    def block(self) -> LongSpecBlock:
        """The block, in float32 on the CPU."""
        block = LongSpecBlock(self.sizes)
        others = tuple(f"{part}." for part in self.parts)
        own = {k: x.float() for k, x in self.weights.items() if not k.startswith(others)}
        block.load_state_dict(own)
        return block.requires_grad_(False).eval()

    def weights_of(self, part: str) -> dict[str, Tensor]:
        """The weights of a further module, by their names in it."""
        prefix = f"{part}."
        return {k.removeprefix(prefix): x for k, x in self.weights.items() if k.startswith(prefix)}

    def save(self, folder: Path) -> None:
        """Write the folder; each file is replaced as a whole, the weights in bfloat16."""
        check_free(folder)
        tensors = {name: x.detach().cpu().bfloat16() for name, x in self.weights.items()}
        if self.ids is not None:
            tensors["draft_ids"] = self.ids.int().cpu()
        config: dict[str, Any] = {
            "kind": KIND,
            "sizes": self.sizes.as_dict(),
            "target": self.target,
            "training": self.training,
        }
        if self.parts:
            config["parts"] = dict(self.parts)
        if self.base is not None:
            config["base"] = self.base
            known = load_file(SHIPPED / self.base / WEIGHTS)
            tensors = {k: x for k, x in tensors.items() if not _same(x, known.get(k))}
        with replacing(folder / WEIGHTS) as unfinished:
            # The weights say themselves what they are: the two files are not swapped at once.
            save_file(
                {name: x.contiguous() for name, x in tensors.items()}, unfinished,
                {"config": json.dumps(config)},
            )  # fmt: skip
        write_text(folder / CONFIG, json.dumps(config, indent=1) + "\n")

    @classmethod
    def load(cls, source: str | Path) -> Checkpoint:
        """From a folder, or from a repository of the hub.

        Raises WeightsError where there is none, and InvalidArgument for another kind of model.
        """
        folder = _folder(str(source))
        try:
            config = json.loads((folder / CONFIG).read_text("utf-8"))
            if config.get("kind") != KIND:
                raise InvalidArgument(
                    f"draft_model={str(source)!r} holds a model of type "
                    f"{config.get('model_type', 'unknown')!r}, not a LongSpec drafter: train one "
                    "with `specdec train-drafter`, or use drafter='model'"
                )
            weights = load_file(folder / WEIGHTS)
            with safe_open(folder / WEIGHTS, "pt") as file:
                own = (file.metadata() or {}).get("config")
            config = config if own is None else json.loads(own)
            base, parts = config.get("base"), config.get("parts", {})
            if base is not None:
                weights = {**load_file(SHIPPED / base / WEIGHTS), **weights}
            sizes = Sizes(**config["sizes"])
            target, training = config["target"], config.get("training", {})
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            if isinstance(error, InvalidArgument):
                raise
            raise WeightsError(
                f"the LongSpec drafter in {folder} cannot be read: {error}"
            ) from error
        ids = weights.pop("draft_ids", None)
        ids = None if ids is None else ids.long()
        found = cls(sizes, weights, ids, target, training, parts, base)
        try:
            found.block()
        except RuntimeError as error:
            what = str(error).splitlines()[-1].strip()
            raise WeightsError(
                f"the LongSpec drafter in {folder} does not fit its config: {what}"
            ) from error
        return found

    def check(self, target: Target, source: str) -> None:
        """Raise InvalidArgument, naming the difference, unless it was trained for `target`."""
        check(self.target, target, source)


def check(trained_for: dict[str, Any], target: Target, source: str) -> None:
    """Raise InvalidArgument, naming the difference, unless that is what `target` is."""
    ours = describe(target)
    for name, value in trained_for.items():
        if name != "sample" and ours[name] != value:
            raise InvalidArgument(
                f"the LongSpec drafter {source} was trained for another target: its {name} is "
                f"{value}, this one's is {ours[name]}. Train one with `specdec train-drafter`"
            )
    a, b = torch.tensor(trained_for["sample"]), torch.tensor(ours["sample"])
    cosine = float(torch.nn.functional.cosine_similarity(a, b, 0))
    if cosine < _CLOSE:
        raise InvalidArgument(
            f"the LongSpec drafter {source} was trained for a target of the same sizes with "
            f"other weights: their embeddings have a cosine of {cosine:.2f}. Train one with "
            "`specdec train-drafter`"
        )


def check_config(folder: Path, target: Target, source: str) -> None:
    """As `Checkpoint.check`, by the folder's config alone: no weights are read.

    Raises WeightsError where there is none.
    """
    try:
        trained_for = json.loads((folder / CONFIG).read_text("utf-8"))["target"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"the LongSpec drafter in {folder} cannot be read: {error}") from error
    check(trained_for, target, source)


def _same(x: Tensor, other: Tensor | None) -> bool:
    return other is not None and x.dtype == other.dtype and torch.equal(x, other)


def check_free(folder: Path) -> None:
    """Raise InvalidArgument where a checkpoint in `folder` would replace another model's files."""
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        is_ours = isinstance(config, dict) and config.get("kind") == KIND
    except (OSError, ValueError):
        is_ours = False
    for name in (CONFIG, WEIGHTS):
        if not is_ours and (folder / name).exists():
            raise InvalidArgument(
                f"{folder} holds a {name} that is not of a LongSpec drafter and would be replaced: "
                "give another folder"
            )


def is_shipped(source: str) -> bool:
    """Whether it is the name of a checkpoint that others may build on."""
    return source in [path.name for path in SHIPPED.iterdir()]


def begun(target: Target, source: str) -> Checkpoint | None:
    """The checkpoint that training begins from, a folder or the name of one that ships, if any.

    Raises InvalidArgument for one of another target.
    """
    if not source:
        return None
    checkpoint = Checkpoint.load(SHIPPED / source if is_shipped(source) else source)
    checkpoint.check(target, source)
    return checkpoint


def describe(target: Target) -> dict[str, Any]:
    """What tells this target from others, in whatever format its weights are held.

    Sizes, vocabulary, and a sample of embedding values, which are compared with a tolerance: a
    quantised copy of a model is still the same target.
    """
    config = target.model.config.get_text_config()
    tokens = torch.linspace(0, target.vocab_size - 1, _SAMPLES).long()
    embed = target.model.get_input_embeddings()
    assert embed is not None
    with torch.no_grad():
        rows = embed(tokens.to(target.device)).float().cpu()
    places = torch.linspace(0, rows.shape[1] - 1, _SAMPLES).long()
    sample = rows[torch.arange(_SAMPLES), places]
    return {
        "model_type": str(config.model_type),
        "hidden_size": int(config.hidden_size),
        "num_layers": target.num_layers,
        "vocab_size": target.vocab_size,
        "sample": [round(x, 5) for x in sample.tolist()],
    }


def sizes_for(
    target: Target, mlp_size: int = 0, window: int = 512, max_lag: int = 4, kv_layer: int = -1
) -> Sizes:
    """The sizes of a block for `target`; 0 for `mlp_size` takes the target's own, -1 for `kv_layer`
    its last layer with full attention.

    Raises InvalidArgument for a layer that there is not, or that forgets tokens.
    """
    config = target.model.config.get_text_config()
    heads = int(config.num_attention_heads)
    full = [i for i, kind in enumerate(target.layer_types) if kind == "full_attention"]
    layer = full[-1] if full else target.num_layers - 1
    if kv_layer != -1:
        if not 0 <= kv_layer < target.num_layers:
            raise InvalidArgument(
                f"kv_layer={kv_layer}: the target's layers are 0 to {target.num_layers - 1}"
            )
        if full and kv_layer not in full:
            raise InvalidArgument(
                f"kv_layer={kv_layer} is a layer of {target.layer_types[kv_layer]}, which does not "
                f"see all of a text: give one of {', '.join(map(str, full))}"
            )
        layer = kv_layer
    dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    attention = attention_of(target, layer)
    return Sizes(
        hidden_size=int(config.hidden_size),
        num_heads=heads,
        num_kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_dim=dim,
        value_dim=dim,
        mlp_size=mlp_size or int(getattr(config, "intermediate_size", 4 * config.hidden_size)),
        kv_layer=layer,
        window=window,
        max_lag=max_lag,
        query_norm=hasattr(attention, "q_norm"),
        token_query=True,
        norm_eps=float(getattr(config, "rms_norm_eps", 1e-5)),
    )


def attention_of(target: Target, layer: int) -> Any:
    """The attention module of a layer, or None if it has none with separate projections."""
    for module in target.decoder.modules():
        if getattr(module, "layer_idx", None) == layer and hasattr(module, "q_proj"):
            return module
    return None


def _folder(source: str) -> Path:
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=["config.json", "model.safetensors"]))
    except Exception as error:
        raise WeightsError(
            f"there is no folder {path}, and no drafter {source!r} could be had from the hub: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error
