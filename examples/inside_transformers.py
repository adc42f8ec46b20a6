"""transformers' own generate with our loop in it: python examples/inside_transformers.py"""

from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import specdec.hf


def load(name):
    """Your model; without a name a small one with random weights, so that this runs anywhere."""
    if name:
        return AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)
    config = LlamaConfig(
        vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval(), None


if __name__ == "__main__":
    import sys

    import torch

    model, tokenizer = load(sys.argv[1] if len(sys.argv) > 1 else None)
    ids = tokenizer("one two one two", return_tensors="pt").input_ids if tokenizer else None
    ids = torch.tensor([[1, 2, 3, 1, 2, 3, 1, 2]]) if ids is None else ids
    how = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": 24}
    stock = model.generate(**how, do_sample=False)
    ours = model.generate(**how, do_sample=False, custom_generate=specdec.hf.generate)
    print("the same text:", torch.equal(stock, ours))
