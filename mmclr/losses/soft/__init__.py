"""Objectives about graded targets instead of one positive."""
