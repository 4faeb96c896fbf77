"""Plain maths on rows of numbers, which evaluations and tools share: what is regressed, mixed or out of place."""
