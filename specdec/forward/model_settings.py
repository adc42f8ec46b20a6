"""ModelSettings: how a model attends and whether it trains, to be put back as it was."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel


class ModelSettings:
    """Names of the attention implementations of a model and its parts, and the modules in training
    mode, as they stand now."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self._attention = _attention_of(model.config)
        self._training = [module for module in model.modules() if module.training]

    def restore(self) -> None:
        """Put all of it back, in place."""
        self.model.set_attn_implementation(self._attention)
        self.model.eval()
        for module in self._training:
            module.training = True


def of_text(config: Any, name: str) -> str | dict[str, Any]:
    """What `set_attn_implementation` takes to have the text part of a model attend by `name`, and
    the others, such as a tower for images, as they do."""
    text = config.get_text_config()
    return name if text is config else _with_text(config, text, name)


def _with_text(config: Any, text: Any, name: str) -> Any:
    if config is text:
        return name
    parts = {key: getattr(config, key, None) for key in config.sub_configs}
    nested = {key: _with_text(part, text, name) for key, part in parts.items() if part is not None}
    return {"": config._attn_implementation, **nested}


def _attention_of(config: Any) -> dict[str, Any]:
    """The implementation of a config ("") and those of its parts, as transformers nests them."""
    parts = {name: getattr(config, name, None) for name in config.sub_configs}
    nested = {name: _attention_of(part) for name, part in parts.items() if part is not None}
    return {"": config._attn_implementation, **nested}
