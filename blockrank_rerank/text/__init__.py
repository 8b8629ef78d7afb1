"""Words to token ids: documents, sentences, passages, the prompt and its blocks."""
