"""The report: one HTML page of a store's analyses."""
