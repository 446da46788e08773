"""What every analysis stands on: reading, results, figures, options."""
