"""KV beyond the device's memory: tiers, streaming, planning, saved prompts."""
