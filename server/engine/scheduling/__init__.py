"""What the next step computes, and where it lies in the KV cache."""
