"""The answers' shapes, for the OpenAPI document. They describe; they neither make nor check."""
