"""Text with drafts and without, and what the drafts brought: python examples/generate.py"""

from specdec import Engine

engine = Engine.from_pretrained("demo")
prompt = [{"role": "user", "content": "Repeat after me: one two three four five six seven eight."}]
plain = engine.generate(prompt, drafter="none", max_new_tokens=48)
fast = engine.generate(prompt, max_new_tokens=48)
print(fast.text)
print("the same text:", fast.token_ids == plain.token_ids)
print(f"{fast.stats.tokens_per_s / plain.stats.tokens_per_s:.2f} times plain decoding")
print(f"{fast.stats.mean_acceptance_length:.2f} tokens a pass")
