"""Objectives about several views of one sample."""
