"""Choosing the steps of a walk: which times, which variances, from where (lesson 08)."""
