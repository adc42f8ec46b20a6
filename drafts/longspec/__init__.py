"""A trained block on the target's own KV (LongSpec): drafter, model, checkpoint."""
