"""What a flagged batch sets off: small reactions to the reading of a chart."""
