"""/v1/embeddings: vectors of texts, of pictures, and of both together."""
