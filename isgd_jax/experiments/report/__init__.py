"""`isgd-jax report`: tables, verdicts and figures from the records."""
