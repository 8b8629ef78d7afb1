"""A loaded model that computes requests within its budget."""
