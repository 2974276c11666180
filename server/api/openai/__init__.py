"""/v1/completions: text, token ids and pictures, without a chat template."""
