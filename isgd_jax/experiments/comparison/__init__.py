"""Methods compared under equal budgets: statistics, figures and reports."""
