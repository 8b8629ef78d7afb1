"""What of ranked documents goes into a generator's prompt, within a budget of tokens."""
