"""The fields that clients may send, shared by the API families."""
