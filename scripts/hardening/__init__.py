"""What the hardening scripts share: a watched server, hostile pictures and bodies, the judge."""
