"""Token ids to log-sum-exps: a Transformers model cut off at its scoring layer."""
