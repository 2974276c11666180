"""From a dialog to its answer: the one road of all API families."""
