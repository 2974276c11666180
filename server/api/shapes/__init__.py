"""The answers' shapes: what builders of answers return, and what the OpenAPI document says."""
