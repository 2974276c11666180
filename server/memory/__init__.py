"""Memory: which devices there are, and what each part of the model takes of them."""
