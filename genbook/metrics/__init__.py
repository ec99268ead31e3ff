"""Measures of a set of samples, one file a family.  All in float64."""
