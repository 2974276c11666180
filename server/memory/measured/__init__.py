"""What the loaded model takes."""
