"""The demo LLaVA: its pictures, its questions, its network and its training."""
