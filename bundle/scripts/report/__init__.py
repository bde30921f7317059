"""The report of a run as web pages, its figures and tables, and the model card."""
