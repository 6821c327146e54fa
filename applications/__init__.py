"""Applications built of this package's layers; they run from the checkout."""
