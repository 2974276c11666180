"""What every endpoint needs of HTTP: bodies, errors, connections, records, the OpenAPI document."""
