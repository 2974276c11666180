"""What a model will take, part by part, from its headers."""
