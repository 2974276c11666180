"""Which placement and context fit the devices."""
